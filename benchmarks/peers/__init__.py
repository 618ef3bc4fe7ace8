"""Peers that a decision is measured against; each runs in a process of its own and imports none of our code."""
