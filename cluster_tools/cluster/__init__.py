"""Futures in, futures out: what the executors of all schedulers share.

Knows no scheduler by name.
"""
