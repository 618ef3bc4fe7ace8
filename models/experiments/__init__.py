"""Experiments as releases: definition, allocation of buckets to variants, assignment of players. Pure."""
