"""Observers: they are told what happens to calls, and ask nobody."""
