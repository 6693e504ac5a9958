"""Engines against the usual loop, and indexing end to end."""
