"""The HTTP API: routes, problems, and the wiring of the serving process."""
