"""Connectors, one vendor a file: a message becomes the provider's request, and its callbacks become receipts."""
