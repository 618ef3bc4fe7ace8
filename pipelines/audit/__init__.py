"""Account for decisions: find a record, show it, replay it, say why not, and verify the whole log."""
