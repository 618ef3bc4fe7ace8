"""The worker: features from the log, the lake, webhooks, schedules."""
