"""Backups: a running house copied without stopping it, laid out again elsewhere, and checked."""
