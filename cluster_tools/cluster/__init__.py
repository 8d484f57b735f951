"""The parts that the executors of all schedulers share: they take calls and resolve futures.

This package knows no scheduler by name.
"""
