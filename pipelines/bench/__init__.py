"""Benches that need no peer environment."""
