"""Campaigns: one decision for each of many players, asked of a running house over HTTP."""
