"""Accept what players did."""
