"""Decide and remember: facts, rules, caps, the decision and its log."""
