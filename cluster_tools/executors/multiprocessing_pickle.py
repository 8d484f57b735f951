"""Worker processes, with calls pickled as for a cluster: tests find there what cannot be sent."""

from __future__ import annotations

from cluster_tools import pickling
from cluster_tools.executors.multiprocessing_ import MultiprocessingExecutor


class MultiprocessingPickleExecutor(MultiprocessingExecutor):
    """A `MultiprocessingExecutor` that sends only what can also be sent to a cluster.

    A `MultiprocessingExecutor` also sends what only related processes can share, such as
    connections.
    """

    _dumps = staticmethod(pickling.dumps)
