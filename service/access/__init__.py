"""Who may ask what: scopes, keys."""
