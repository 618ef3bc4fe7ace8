"""What a person may demand: to be erased, and to be told all that is held of them."""
