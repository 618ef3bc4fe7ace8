"""Decide, record, confirm, explain; and what became of it."""
