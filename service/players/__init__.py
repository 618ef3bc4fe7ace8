"""What is known of a player at a moment."""
