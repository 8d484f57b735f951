"""Runs calls in worker processes, but pickles them as for a cluster: tests see what can't be."""

from __future__ import annotations

from cluster_tools import pickling
from cluster_tools.executors.multiprocessing_ import MultiprocessingExecutor


class MultiprocessingPickleExecutor(MultiprocessingExecutor):
    """A `MultiprocessingExecutor` that sends only what can also be sent to a cluster.

    A `MultiprocessingExecutor` also sends what only related processes can share, such as
    connections.
    """

    _dumps = staticmethod(pickling.dumps)
