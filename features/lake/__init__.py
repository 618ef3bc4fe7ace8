"""The lake as serving processes read it: a decision's record by its place."""
