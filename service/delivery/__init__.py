"""Deliver: a reserved contact becomes a message, a connector sends it, and what its provider calls back is an outcome."""
