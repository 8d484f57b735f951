"""Observers: objects that get the events of an executor's calls."""
