"""Deletes Jobs, in a helper process (`detached`) that goes on when the client has ended.

    main([TOKEN, NAMESPACE, CONTEXT], begun) < names of Jobs, one a line

With a TOKEN, an executor's: deletes all its Jobs, also those that show up a little later, since a
submission may have been on its way. If TOKEN is "": deletes the Jobs of these names. CONTEXT may be
"". Pods get SIGTERM, and are killed after the grace period of their Job.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence

from cluster_tools.schedulers.base import SchedulerError, Unreachable
from cluster_tools.schedulers.kubernetes.api import ApiServer, own_namespace
from cluster_tools.schedulers.kubernetes.manifest import SESSION_LABEL

# How long to wait for a server that does not answer. After that the Jobs end when their leases do.
_PATIENCE_S = 600.0
_RETRY_INTERVAL_S = 5.0
# By then a submission that was on its way has arrived.
_LATE_ARRIVAL_S = 10.0
# Time limit of one request: it is made again.
_TIMEOUT_S = 10.0


def _delete(server: ApiServer, path: str, **query: str) -> None:
    """Deletes Jobs, again while the server does not answer, until `_PATIENCE_S` are over."""
    deadline = time.monotonic() + _PATIENCE_S
    while True:
        try:
            # Without a propagation policy, pods that run would go on.
            server.delete(path, propagationPolicy="Background", timeout_s=_TIMEOUT_S, **query)
            return
        except Unreachable:
            if time.monotonic() > deadline:
                return
        except SchedulerError:  # refused: leases end the Jobs, and they are deleted 7 days later
            return
        time.sleep(_RETRY_INTERVAL_S)


def main(arguments: Sequence[str], begun: Callable[[], None]) -> None:
    """What the helper runs. Calls `begun` when Jobs that are there were deleted."""
    token, namespace, context = arguments
    server = ApiServer(context or None)
    path = f"/apis/batch/v1/namespaces/{namespace}/jobs"
    if not token:
        for name in sys.stdin.read().split():
            _delete(server, f"{path}/{name}")
        begun()
        return
    selector = f"{SESSION_LABEL}={token}"
    _delete(server, path, labelSelector=selector)
    begun()
    if own_namespace() is None:  # in a pod, whose end deletes its Jobs, this process ends with it
        time.sleep(_LATE_ARRIVAL_S)
        _delete(server, path, labelSelector=selector)
