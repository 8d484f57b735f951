"""Told of what happens to calls."""
