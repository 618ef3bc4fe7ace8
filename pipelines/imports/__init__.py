"""Files of outside events into the house, each row accounted for."""
