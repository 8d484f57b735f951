"""Deletes Jobs, as a helper (`detached`): nobody has to wait for it, and it goes on when the client has ended.

    main([TOKEN, NAMESPACE, CONTEXT], begun) < names, one a line

Without a TOKEN these Jobs; with one all Jobs of the executor of that token, and those that come a little
later, for a submission may have been on its way. CONTEXT may be "". Pods get SIGTERM, and are killed after
the time that their Job has set.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence

from cluster_tools.schedulers.base import SchedulerError, Unreachable
from cluster_tools.schedulers.kubernetes.api import ApiServer, own_namespace
from cluster_tools.schedulers.kubernetes.manifest import SESSION_LABEL

# How long to wait for a server that does not answer; leases of the Jobs end later.
_PATIENCE_S = 600.0
_RETRY_INTERVAL_S = 5.0
# A submission that was on its way has arrived by then.
_LATE_ARRIVAL_S = 10.0
_TIMEOUT_S = 10.0


def _delete(server: ApiServer, path: str, **query: str) -> None:
    """Without a propagation policy, pods that run would go on, as orphans."""
    deadline = time.monotonic() + _PATIENCE_S
    while True:
        try:
            server.delete(path, propagationPolicy="Background", timeout_s=_TIMEOUT_S, **query)
            return
        except Unreachable:
            if time.monotonic() > deadline:
                return
        except SchedulerError:  # a No that stays one: leases and the time to live have to do
            return
        time.sleep(_RETRY_INTERVAL_S)


def main(arguments: Sequence[str], begun: Callable[[], None]) -> None:
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
    if own_namespace() is None:  # a pod may end any moment, and its end deletes its Jobs
        time.sleep(_LATE_ARRIVAL_S)
        _delete(server, path, labelSelector=selector)
