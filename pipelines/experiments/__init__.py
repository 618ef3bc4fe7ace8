"""Analyse experiments: exposures, health, uplift, reports."""
