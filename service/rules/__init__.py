"""What may never be sent: rule types, dated rulebooks, their compiled form, sending hours."""
