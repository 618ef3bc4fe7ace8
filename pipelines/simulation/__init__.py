"""Worlds of known truth that a house is driven by."""
