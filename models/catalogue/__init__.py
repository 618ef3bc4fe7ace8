"""What can be sent: offers, limits, sets of candidates, the split of an experiment."""
