"""Privacy: the house key, erasing a player, and all that is held of one."""
