"""Teach the policy from the lake, and choose which snapshot serves."""
