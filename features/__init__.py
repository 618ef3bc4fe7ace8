"""Know a player: events, behaviour features, the store they live in."""
