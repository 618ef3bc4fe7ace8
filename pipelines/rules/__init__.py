"""Lint, explain, compare and promote rulebooks."""
