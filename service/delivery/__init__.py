"""Deliver: a reserved contact becomes a message, a connector sends it, what its provider calls back is an outcome."""
