"""Watches the Jobs of one executor: one request, open all the time, however many Jobs and tasks there are.

    API server --events--> watch thread --> jobs, deleted, trouble --> whoever asks for states

The thread lists once, then watches from there on. It lists again only where the server has
forgotten the point from which to watch, or where a watch brought nothing: something in between may
hold events back.
https://kubernetes.io/docs/reference/using-api/api-concepts/#efficient-detection-of-changes
"""

from __future__ import annotations

import logging
import queue
import random
import threading
import time
from typing import Any

from cluster_tools.schedulers.base import SchedulerError
from cluster_tools.schedulers.kubernetes.api import ApiServer, Gone, Silent, Unreachable, Watch

# The server ends a watch after so long, and it is begun anew: less than once a minute.
_WATCH_S = 80.0
_FIRST_RETRY_S = 0.5
_MAX_RETRY_S = 30.0
# A watch that ends sooner is not begun anew without a pause, whatever has ended it.
_GOOD_WATCH_S = 0.5
# The same for a watch that brought nothing: a server sends bookmarks, each minute and at the end.
_GOOD_SILENT_WATCH_S = 10.0
# Where nothing was heard for so long when a watch begins, it begins with a list, which has what was
# missed. With the silence that ends a watch, an end of a Job is seen within two minutes.
_UNHEARD_S = 25.0
# The first list and the opening of the watch, which a submission waits for.
_START_PATIENCE_S = 60.0
# The opening alone: a server answers at once, but a load balancer may hold that back.
_OPENING_PATIENCE_S = 10.0

_logger = logging.getLogger("cluster_tools")


class JobWatch(threading.Thread):
    """`path`: of the Jobs of a namespace."""

    def __init__(self, server: ApiServer, path: str):
        super().__init__(name="cluster_tools-kubernetes-watch", daemon=True)
        self._server = server
        self._path = path
        # Labels of the Jobs to watch.
        self.selector = ""
        # Name -> object, as last seen. Only whole-dict operations, which need no lock.
        self.jobs: dict[str, dict[str, Any]] = {}
        # Names of Jobs that were there and are not any more.
        self.deleted: set[str] = set()
        # Why nothing is seen at the moment; None while all is well.
        self.trouble: SchedulerError | None = None
        self._wanted: queue.SimpleQueue[None] = queue.SimpleQueue()
        # Names that are asked about. Others are not kept: the Jobs that we have deleted say so too.
        self._expected: set[str] = set()
        # From where to watch on; "": list first.
        self._version = ""
        # When something last came from the server, in a list or in a watch.
        self._heard_at: float | None = None
        # When this watch, or the last one, was opened; None where it could not be opened.
        self._opened_at: float | None = None
        self._watching = threading.Event()
        self._watch: Watch | None = None
        self._closed = False
        self._has_said_silent = False
        self._pauses: queue.SimpleQueue[None] = queue.SimpleQueue()

    def begin(self, selector: str) -> None:
        """Has it begin, if it has not, and waits until it sees what is created from now on.

        Raises: SchedulerError, where the server does not let it.
        """
        if not self.selector:
            self.selector = selector
            self._wanted.put(None)
        deadline = time.monotonic() + _START_PATIENCE_S
        while not self._watching.wait(0.01):
            trouble = self.trouble
            if trouble is not None:
                raise trouble
            heard_at = self._heard_at
            if heard_at is not None and time.monotonic() - heard_at > _OPENING_PATIENCE_S:
                return  # lists will show what is created
            if time.monotonic() > deadline:
                raise Unreachable(f"watching Jobs could not begin within {_START_PATIENCE_S:.0f} s")

    def expect(self, name: str) -> None:
        """A Job of this name is about to be created."""
        self._expected.add(name)

    def created(self, job: dict[str, Any]) -> None:
        """It was, and looked like this; the watch may have been faster."""
        self.jobs.setdefault(job["metadata"]["name"], _slim(job))

    def forget(self, name: str) -> None:
        self._expected.discard(name)
        self.jobs.pop(name, None)
        self.deleted.discard(name)

    def close(self) -> None:
        self._closed = True
        self._wanted.put(None)
        self._pauses.put(None)
        watch = self._watch
        if watch is not None:
            watch.close()

    def run(self) -> None:
        self._wanted.get()
        retry_s = _FIRST_RETRY_S
        failures = 0
        while not self._closed:
            if self._heard_at is not None and time.monotonic() - self._heard_at > _UNHEARD_S:
                self._version = ""
            self._opened_at = None
            trouble: SchedulerError | None = None
            try:
                if not self._version:
                    self._version = self._list()
                self._follow()
            except Gone:
                self._version = ""
            except Silent as exc:
                self._on_silence(exc)
                retry_s, failures = _FIRST_RETRY_S, 0
                continue
            except SchedulerError as exc:
                trouble = exc
            except Exception as exc:  # nobody else would notice a death any more
                _logger.exception("the watch of Jobs goes on after an unexpected error")
                trouble = Unreachable(f"the watch failed: {exc!r}")
            if self._closed:
                return
            lasted_s = 0.0 if self._opened_at is None else time.monotonic() - self._opened_at
            if lasted_s > _GOOD_WATCH_S:
                failures = 0
            if lasted_s > (_GOOD_WATCH_S if self._has_spoken() else _GOOD_SILENT_WATCH_S):
                retry_s = _FIRST_RETRY_S
                if trouble is None:
                    continue
            if trouble is not None:
                failures += 1
                # One alone is what a proxy does that ends idle connections.
                if failures > 1 or not isinstance(trouble, Unreachable):
                    self._version = ""
                    self.trouble = trouble
            try:
                self._pauses.get(timeout=retry_s * random.uniform(0.5, 1.0))
            except queue.Empty:
                pass
            retry_s = min(_MAX_RETRY_S, retry_s * 2)

    def _on_silence(self, silence: Silent) -> None:
        self._version = ""  # the next list has what was missed
        self.trouble = None
        self._watching.set()
        if not self._has_said_silent:
            self._has_said_silent = True
            _logger.warning(
                "Kubernetes takes watches, but %s: does a load balancer hold them back? Jobs are "
                "listed after each such silence.",
                silence,
            )

    def _has_spoken(self) -> bool:
        """Whether the watch that has just ended brought anything."""
        opened_at, heard_at = self._opened_at, self._heard_at
        return opened_at is not None and heard_at is not None and heard_at > opened_at

    def _list(self) -> str:
        known = set(self.jobs)
        items, version = self._server.list(self._path, labelSelector=self.selector)
        for job in items:
            self._take(job)
        # What was created since the list was made is not in `known`.
        self.deleted |= known - {job["metadata"]["name"] for job in items}
        self._heard_at = time.monotonic()
        return version

    def _follow(self) -> None:
        """Watches until the server ends it."""
        self._watch = self._server.watch(
            self._path,
            timeout_s=_WATCH_S,
            labelSelector=self.selector,
            resourceVersion=self._version,
        )
        if self._closed:
            self._watch.close()
        self._opened_at = time.monotonic()
        self.trouble = None
        self._watching.set()
        for kind, item in self._watch:
            if kind == "DELETED" and item["metadata"]["name"] in self._expected:
                self.deleted.add(item["metadata"]["name"])
            elif kind in ("ADDED", "MODIFIED"):
                self._take(item)
            self._version = item["metadata"]["resourceVersion"]
            self._heard_at = time.monotonic()

    def _take(self, job: dict[str, Any]) -> None:
        if job["metadata"]["name"] in self._expected:
            self.jobs[job["metadata"]["name"]] = _slim(job)


def _slim(job: dict[str, Any]) -> dict[str, Any]:
    """What of a Job is asked for: the rest would be kept for each of thousands."""
    spec = job["spec"]
    return {
        "metadata": {name: job["metadata"].get(name) for name in ("name", "uid", "labels")},
        "spec": {
            name: spec.get(name)
            for name in ("completions", "parallelism", "suspend", "backoffLimitPerIndex")
        },
        "status": job.get("status") or {},
    }
