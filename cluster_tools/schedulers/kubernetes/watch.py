"""Watches the Jobs of one executor, by one open request, however many Jobs and tasks there are.

    API server --events--> watch thread --> jobs, deleted, trouble --> KubernetesScheduler.states

The thread lists the Jobs once, and watches changes from there on. It lists again only if the server
no longer knows the version from which to watch, or if a watch brought nothing: a proxy may hold
events back.
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

# How long the server keeps a watch open before a new one is made: less than one request a minute.
_WATCH_S = 80.0
# Pauses after failures: the first, and the longest.
_FIRST_RETRY_S = 0.5
_MAX_RETRY_S = 30.0
# After a watch that ended sooner there is a pause, whatever has ended it.
_GOOD_WATCH_S = 0.5
# The same for a watch that brought nothing: a server sends bookmarks, each minute and at the end.
_GOOD_SILENT_WATCH_S = 10.0
# If nothing has come for so long when a watch begins, it begins with a list, which has what was
# missed. With the silence that ends a watch, the end of a Job is seen within two minutes.
_UNHEARD_S = 25.0
# How long a submission waits for the first list and the opening of the watch.
_START_PATIENCE_S = 60.0
# How long it waits for the opening: a server opens a watch at once, but a load balancer may hold
# the answer back.
_OPENING_PATIENCE_S = 10.0

_logger = logging.getLogger("cluster_tools")


class JobWatch(threading.Thread):
    """The thread that watches the Jobs of one executor, and what it has seen of them."""

    def __init__(self, server: ApiServer, path: str):
        """`path`: of the namespace's Jobs on the server."""
        super().__init__(name="cluster_tools-kubernetes-watch", daemon=True)
        self._server = server
        self._path = path
        # The label selector of the Jobs to watch.
        self.selector = ""
        # Name -> Job, as last seen. Used by several threads, by operations that need no lock.
        self.jobs: dict[str, dict[str, Any]] = {}
        # Names of Jobs that were there and are not any more.
        self.deleted: set[str] = set()
        # Why nothing can be seen at the moment; None while all is well.
        self.trouble: SchedulerError | None = None
        # Tells the thread to begin.
        self._begin_signals: queue.SimpleQueue[None] = queue.SimpleQueue()
        # Names of our Jobs. Events of others are ignored, also of Jobs that we have deleted.
        self._expected: set[str] = set()
        # The resource version from which to watch; "": list first.
        self._version = ""
        # When something last came from the server, by a list or a watch.
        self._heard_at: float | None = None
        # When this watch, or the last one, was opened; None where it could not be opened.
        self._opened_at: float | None = None
        self._watching = threading.Event()
        self._watch: Watch | None = None
        self._closed = False
        self._has_warned = False
        # Ends a pause.
        self._pause_ends: queue.SimpleQueue[None] = queue.SimpleQueue()

    def begin(self, selector: str) -> None:
        """Begins to watch, if it has not begun, and waits until Jobs created from now on are seen.

        Raises: SchedulerError, where the server refuses the watch.
        """
        if not self.selector:
            self.selector = selector
            self._begin_signals.put(None)
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
        """To be called before a Job of this name is created."""
        self._expected.add(name)

    def created(self, job: dict[str, Any]) -> None:
        """To be called with a new Job, as the server answered; the watch may know it already."""
        self.jobs.setdefault(job["metadata"]["name"], _slim(job))

    def forget(self, name: str) -> None:
        """Keeps nothing more of this Job."""
        self._expected.discard(name)
        self.jobs.pop(name, None)
        self.deleted.discard(name)

    def close(self) -> None:
        """Ends the thread."""
        self._closed = True
        self._begin_signals.put(None)
        self._pause_ends.put(None)
        watch = self._watch
        if watch is not None:
            watch.close()

    def run(self) -> None:
        self._begin_signals.get()
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
            except Exception as exc:  # without this thread, nobody would see that a Job has ended
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
                # A single one is normal: proxies end idle connections.
                if failures > 1 or not isinstance(trouble, Unreachable):
                    self._version = ""
                    self.trouble = trouble
            try:
                self._pause_ends.get(timeout=retry_s * random.uniform(0.5, 1.0))
            except queue.Empty:
                pass
            retry_s = min(_MAX_RETRY_S, retry_s * 2)

    def _on_silence(self, silence: Silent) -> None:
        """Goes on with lists, where a watch was accepted and brought nothing."""
        self._version = ""  # list first: that has what was missed
        self.trouble = None
        self._watching.set()
        if not self._has_warned:
            self._has_warned = True
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
        """Lists the Jobs; returns the version from which to watch."""
        known = set(self.jobs)
        items, version = self._server.list(self._path, labelSelector=self.selector)
        for job in items:
            self._take(job)
        # Jobs that were created since the request are not in `known`.
        self.deleted |= known - {job["metadata"]["name"] for job in items}
        self._heard_at = time.monotonic()
        return version

    def _follow(self) -> None:
        """Watches until the server ends the watch."""
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
    """The fields of a Job that are used; the others would take memory for each of thousands."""
    spec = job["spec"]
    return {
        "metadata": {name: job["metadata"].get(name) for name in ("name", "uid", "labels")},
        "spec": {
            name: spec.get(name)
            for name in ("completions", "parallelism", "suspend", "backoffLimitPerIndex")
        },
        "status": job.get("status") or {},
    }
