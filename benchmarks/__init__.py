"""Benches of Croupier beside its peers, run from a checkout; not in the wheel, and imported by none of it."""
