"""Kubernetes: an array is an Indexed Job, an element one of its pods.

    submit --Job--> API server --events--> JobWatch --+
                        |                             +--> states, explain
                        +-------- pods, if need be ---+

The status of Jobs decides. Pods are queried only to find out why an element waits or has ended: all
pods with one request, in intervals that grow. What is known of Jobs is from
https://kubernetes.io/docs/concepts/workloads/controllers/job/ and was seen on real clusters.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shlex
import socket
import subprocess
import time
from collections import defaultdict
from collections.abc import Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

from cluster_tools import own_files
from cluster_tools.schedulers.base import (
    ArrayRequest,
    Cause,
    Element,
    Ending,
    Options,
    Report,
    Scheduler,
    SchedulerError,
    State,
    Unreachable,
)
from cluster_tools.schedulers.detached import (
    entries_for,
    helper_command,
    helper_environment,
    start_helper,
)
from cluster_tools.schedulers.kubernetes.api import (
    ApiError,
    ApiServer,
    Forbidden,
    own_namespace,
    refused,
)
from cluster_tools.schedulers.kubernetes.manifest import (
    MAX_PARALLELISM,
    POD_NAME,
    POD_UID,
    SESSION_LABEL,
    Resources,
    job_manifest,
    job_name,
)
from cluster_tools.schedulers.kubernetes.pods import (
    INDEX,
    Pod,
    ending,
    index_of,
    job_of,
    pod_that_explains,
    read_pod,
)
from cluster_tools.schedulers.kubernetes.script import (
    container_command,
    element_script,
    environment_script,
)
from cluster_tools.schedulers.kubernetes.waiting import (
    Event,
    StartupTimes,
    Waiting,
    job_waits_for,
    read_events,
    waits_for,
)
from cluster_tools.schedulers.kubernetes.watch import JobWatch

# More completions need further fields.
# https://kubernetes.io/docs/reference/kubernetes-api/workload-resources/job-v1/
_MAX_COMPLETIONS = 100_000
# A controller manager makes about ten pods a second, for all Jobs of the cluster.
_MANY_PODS = 1_000
# Intervals between queries of pods: the first query comes when pods have usually begun.
_FIRST_QUERY_S = 3.0
_MAX_QUERY_INTERVAL_S = 40.0
# The interval while an element needs somebody's help. With it, an image that its registry
# refuses is given up within 90 s.
_STUCK_QUERY_S = 10.0
# How long after its creation a Job's events are read: by then there may be a warning.
_EVENTS_AFTER_S = 5.0
# The interval while pods are ending, until their processes have ended.
_ENDING_QUERY_S = 1.0
# A query that took long is not repeated at once: the pause is so many times as long, at most the
# second, since a server may be slow only once.
_PAUSE_FACTOR = 5.0
_MAX_QUERY_PAUSE_S = 15.0
# How long after its grace period a deleted pod may still be there before its node counts as lost.
_LOST_AFTER_S = 60.0
# Servers before 1.29 replace a failed pod, again and again. If the call of an element has begun,
# the next pod finds the claim and ends well. So after this many failures the call has never begun.
_MAX_FAILED_PODS = 3
# How soon a lease is renewed again after a failure.
_LEASE_RETRY_S = 5.0
# A server that was just started may not know its roles for so long, and
# refuse what it allowed before.
_ROLES_UNKNOWN_S = 30.0
# Time limit for deleting a Job that is done, and the pause after a failure: futures wait meanwhile.
_DELETE_TIMEOUT_S = 5.0
_DELETE_PAUSE_S = 30.0
# Time limit of the helper in a pod, where we wait for its end.
_STOP_IN_POD_TIMEOUT_S = 15.0
# How many elements' pods one request deletes: their indexes must fit into its address.
_MAX_INDEXES = 500

_STOP = "cluster_tools.schedulers.kubernetes.stop"
# The value of `_to_explain` for a Job all of whose pods are well.
_NOTHING_TO_EXPLAIN = ("", 0, 0, None, False)
# Reasons of a failed Job whose indexes each have an end of their own.
_FINISHED_BY_INDEX = {"", "FailedIndexes", "MaxFailedIndexesExceeded"}

_HAS_BOOTTIME = hasattr(time, "CLOCK_BOOTTIME")

_logger = logging.getLogger("cluster_tools")


@dataclass
class _Job:
    """A Job of ours, and what was seen of its pods."""

    name: str
    count: int
    is_array: bool
    created_at: float
    renew_at: float
    startup: StartupTimes
    # The server replaces failed pods.
    replaces_pods: bool = False
    # Index -> uid -> pod, as of the last query. Without pods that have ended well.
    pods: dict[int, dict[str, Pod]] = field(default_factory=dict[int, dict[str, Pod]])
    # `status.startTime` of the Job, which changes when a suspended Job is resumed.
    start_time: str | None = None
    # Uid of a pod that is ending -> since when we have seen that.
    ending_since: dict[str, float] = field(default_factory=dict[str, float])
    # Index -> why its pod has not begun. -1: the Job has no pod yet.
    waiting: dict[int, Waiting] = field(default_factory=dict[int, Waiting])
    # `_to_explain` as it was before the last query of pods.
    explained: object = _NOTHING_TO_EXPLAIN
    # The largest number of pods that its status has counted as ready or ended.
    counted: int = 0
    # Uids of pods that we have deleted because only a sidecar still ran in them.
    ended_by_us: set[str] = field(default_factory=set[str])

    def element(self, index: int) -> Element:
        return Element(self.name, index if self.is_array else None)

    def is_ending(self, index: int) -> bool:
        """Whether a process of this element may still run, though it was told to end."""
        return any(
            pod.is_ending and not self.is_lost(pod) for pod in self.pods.get(index, {}).values()
        )

    def has_only_sidecars(self, index: int) -> bool:
        """Whether the call has ended, but a sidecar in its pod has not."""
        pods = self.pods.get(index, {}).values()
        return any(pod.outlives_worker for pod in pods) and all(pod.has_ended for pod in pods)

    def is_lost(self, pod: Pod) -> bool:
        """Whether a deleted pod has not ended long after its grace period: its node is lost."""
        since = self.ending_since.get(pod.uid)
        limit_s = pod.grace_s + _LOST_AFTER_S
        return pod.is_ending and since is not None and time.monotonic() - since > limit_s

    def hopeless_element(self) -> tuple[int, Waiting] | None:
        """An element that is given up, if all the others would wait for the same thing.

        That is so if no pod has begun, and the registry refuses the image or all pods need help.
        """
        if any(pod.began for pods in self.pods.values() for pod in pods.values()):
            return None
        alive = {
            index: self.waiting.get(index)
            for index, pods in self.pods.items()
            if any(not pod.has_ended and pod.deleted_at is None for pod in pods.values())
        }
        are_all_stuck = all(waiting and waiting.needs_help for waiting in alive.values())
        for index, waiting in alive.items():
            if waiting is None or not self.startup.hopeless(index, waiting):
                continue
            if are_all_stuck or waiting.patience_s is not None:
                return index, waiting
        return None

    def may_run(self, index: int) -> bool:
        """Whether a process of this element may still run, whatever the Job's status says."""
        return any(
            not pod.has_ended and not self.is_lost(pod) for pod in self.pods.get(index, {}).values()
        )


class KubernetesScheduler(Scheduler):
    """One executor's connection to Kubernetes: its Jobs, and what was seen of their pods."""

    prefix = "kube"
    # `states` mostly reads what the watch has brought, which costs nothing.
    min_interval_s = 0.25
    max_interval_s = 1.0
    # Each array is a Job, and pods take seconds to start, so waiting for more calls is worth it.
    max_gathering_s = 1.0
    # A second pod of the same index may begin after the first.
    may_run_again = True

    def width(self) -> int:
        return self._resources.parallelism or MAX_PARALLELISM

    def __init__(self, options: Options, resources: Resources):
        """Raises: RuntimeError, where there is no configuration."""
        self._options = options
        if options.keep_jobs_on_exit:
            resources = replace(resources, client_lease_s=None)
        self._resources = resources
        self.time_limit_s = resources.time_limit_s
        self._server = ApiServer(resources.context)
        self._jobs_path = f"/apis/batch/v1/namespaces/{resources.namespace}/jobs"
        self._pods_path = f"/api/v1/namespaces/{resources.namespace}/pods"
        self._events_path = f"/api/v1/namespaces/{resources.namespace}/events"
        self._jobs: dict[str, _Job] = {}
        # Token -> name of the Job.
        self._names: dict[str, str] = {}
        # Name -> when we first tried to create the Job, by `_now`.
        self._first_tries: dict[str, float] = {}
        # Name -> path of the file with its elements' script.
        self._scripts: dict[str, str] = {}
        self._query_interval_s = _FIRST_QUERY_S
        self._next_query_at = self._queried_at = self._query_took_s = 0.0
        self._owner: dict[str, str] | None = None
        self._owner_known = False
        self._jobs_made = 0
        # Since when the server refuses what it allowed before.
        self._forbidden_since: float | None = None
        # Names of Jobs that are done and have to be deleted, and when to try again.
        self._undeleted: list[str] = []
        self._delete_at = 0.0
        self._stopped = False
        # What `_warn_once` has warned about.
        self._warned: set[str] = set()
        # Started now: an interpreter that exits starts no threads.
        self._watch = JobWatch(self._server, self._jobs_path)
        self._watch.start()

    @property
    def cluster(self) -> Hashable:
        return id(self)

    # -- submission --

    def submit(self, request: ArrayRequest) -> str:
        session = request.token.partition(".")[0]
        name = job_name(request.name, request.token, request.count)
        self._names[request.token] = name
        # The lease counts from the creation: perhaps by an earlier try, whose answer was lost.
        created_at = self._first_tries.setdefault(name, _now())
        if request.count > _MANY_PODS:
            self._warn_once(
                f"{request.count} elements are as many pods, of which Kubernetes starts about ten "
                "a second: with the strategy batching each could do more."
            )
        try:
            self._watch.begin(f"{SESSION_LABEL}={session}")
            manifest = self._manifest(request, name, session)
            self._watch.expect(name)
            job = self._create(manifest, session)
        except ApiError as exc:
            self._watch.forget(name)
            if self._may_pass(exc):
                raise Unreachable(str(exc)) from exc
            del self._first_tries[name]
            raise refused(exc) from exc
        self._forbidden_since = None
        self._watch.created(job)
        self._jobs_made += 1
        lease_s = self._resources.client_lease_s
        self._jobs[name] = _Job(
            name,
            request.count,
            request.is_array,
            created_at=created_at,
            renew_at=created_at + (lease_s or 0) / 3,
            startup=StartupTimes(self._resources.startup_timeout_s),
            replaces_pods="backoffLimitPerIndex" not in job["spec"],
        )
        self._query_interval_s = _FIRST_QUERY_S
        now = time.monotonic()
        first = now + _FIRST_QUERY_S
        self._next_query_at = (
            min(self._next_query_at, first) if self._next_query_at > now else first
        )
        return name

    def _may_pass(self, refusal: ApiError) -> bool:
        """Whether the same request may succeed later."""
        if "exceeded quota" in str(refusal):  # the namespace's limit of Jobs
            return True
        if not isinstance(refusal, Forbidden) or not self._jobs_made:
            return False
        # A server that was just started may not know its roles yet.
        if self._forbidden_since is None:
            self._forbidden_since = time.monotonic()
        return time.monotonic() - self._forbidden_since < _ROLES_UNKNOWN_S

    def _manifest(self, request: ArrayRequest, name: str, session: str) -> dict[str, Any]:
        """The manifest of a Job. Writes the files that its pods need into the run directory."""
        job = (
            f'{shlex.quote(name)}"_$cluster_tools_index"' if request.is_array else shlex.quote(name)
        )
        directory = shlex.quote(self._options.log_directory)
        log = self.log_path(directory, Element('"$cluster_tools_job"'))
        shell, script = element_script(request, self._options.setup_lines)
        environment = environment_script(os.environ.copy())
        script_path, owner = _write_shell(request.run_directory, script)
        environment_path, _ = _write_shell(request.run_directory, environment)
        self._scripts[name] = script_path
        command = container_command(
            request,
            job=job,
            log=log,
            environment=environment_path,
            script=script_path,
            owner=owner,
            shell=shell,
            umask=self._resources.umask,
            logs_for_all=self._options.trust_group,
        )
        return job_manifest(
            self._resources,
            name=name,
            session=session,
            count=request.count,
            command=command,
            directories=[request.working_directory, self._options.log_directory],
            grace_s=self._options.grace_s,
            owner=self._own_pod(),
            at_a_time=request.at_a_time,
        )

    def _create(self, manifest: dict[str, Any], session: str) -> dict[str, Any]:
        """Creates the Job, or finds that an earlier try has. Raises: ApiError, Unreachable."""
        try:
            return self._server.create(self._jobs_path, manifest)
        except ApiError as exc:
            if exc.status == 404:  # there is no such namespace
                self._create_namespace()
                return self._server.create(self._jobs_path, manifest)
            if exc.status != 409:
                raise
            job = self._server.get(f"{self._jobs_path}/{manifest['metadata']['name']}")
            labels: Any = job["metadata"].get("labels") or {}
            if labels.get(SESSION_LABEL) != session:
                raise
            return job

    def _create_namespace(self) -> None:
        namespace = {"metadata": {"name": self._resources.namespace}}
        try:
            self._server.create("/api/v1/namespaces", namespace)
        except ApiError as exc:
            if exc.status != 409:
                raise

    def _own_pod(self) -> dict[str, str] | None:
        """An ownerReference to our own pod: if that is deleted, Kubernetes deletes our Jobs, too.

        None outside of pods, or where Jobs go to another namespace.
        """
        if not self._owner_known and not self._options.keep_jobs_on_exit:
            self._owner_known = True
            if own_namespace() == self._resources.namespace:
                name, uid = os.environ.get(POD_NAME), os.environ.get(POD_UID)
                if not name or not uid:
                    name = socket.gethostname()
                    try:
                        uid = self._server.get(f"{self._pods_path}/{name}")["metadata"]["uid"]
                    # Another host name, or no right to read pods: the lease must do.
                    except SchedulerError:
                        return None
                self._owner = {"apiVersion": "v1", "kind": "Pod", "name": name, "uid": uid or ""}
        return self._owner

    def find(self, token: str) -> str | None:
        name = self._names.get(token)
        if name is None:
            return None
        try:
            self._server.get(f"{self._jobs_path}/{name}")
        except ApiError as exc:
            if exc.status == 404:
                return None
            raise Unreachable(str(exc)) from exc
        return name

    def array_limit(self) -> int | None:
        return _MAX_COMPLETIONS

    def max_array_size(self) -> int | None:
        return _MAX_COMPLETIONS

    def max_submitted(self) -> int | None:
        return None

    # -- states --

    def states(self, jobs: Mapping[str, str]) -> Mapping[Element, Report]:
        ours = [job for name in jobs if (job := self._jobs.get(name)) is not None]
        self._renew_leases(ours)
        trouble = self._watch.trouble
        if trouble is not None:
            raise Unreachable(str(trouble))
        looked = self._should_query_pods(ours)
        if looked:
            self._query_pods(ours)
        reports: dict[Element, Report] = {}
        for job in ours:
            reports.update(self._reports(job, with_waiting=looked))
        return reports

    def _status(self, job: _Job) -> dict[str, Any]:
        """The Job's status, as the watch has last seen it."""
        return self._watch.jobs.get(job.name, {}).get("status", {})

    def _is_deleted(self, job: _Job) -> bool:
        return job.name in self._watch.deleted

    def _failure(self, job: _Job) -> dict[str, Any] | None:
        """The condition by which the whole Job has failed; None if each index ends by itself."""
        conditions: list[dict[str, Any]] = self._status(job).get("conditions") or []
        for condition in conditions:
            if (
                condition["type"] in ("Failed", "FailureTarget")
                and condition["status"] == "True"
                and condition.get("reason", "") not in _FINISHED_BY_INDEX
            ):
                return condition
        return None

    def _reports(self, job: _Job, *, with_waiting: bool) -> Iterator[tuple[Element, Report]]:
        """The states of a Job's elements. `with_waiting`: pods were just queried."""
        seen = self._watch.jobs.get(job.name)
        if seen is None:  # the watch has not brought it yet
            return
        status = self._status(job)
        over = "Deleted" if self._is_deleted(job) else (self._failure(job) or {}).get("reason")
        completed = set(_indexes(status.get("completedIndexes")))
        failed = set(_indexes(status.get("failedIndexes")))
        for index, pods in job.pods.items():
            failures = [pod for pod in pods.values() if pod.phase == "Failed"]
            if any(map(job.is_lost, pods.values())) or (
                job.replaces_pods
                and len(failures) >= _MAX_FAILED_PODS
                and not any(pod.began and not pod.has_ended for pod in pods.values())
            ):
                failed.add(index)
        # Until pods were queried, processes of elements that failed may still run.
        is_explained = job.explained == self._to_explain(job)
        for index in completed | failed:
            if job.is_ending(index) or not (is_explained or index in completed):
                yield job.element(index), Report(State.RUNNING, "Terminating")
            else:
                word = "Completed" if index in completed else "Failed"
                yield job.element(index), Report(State.ENDED, word)
        ended = completed | failed
        if over is not None:
            alive = {index for index in job.pods if job.may_run(index)} - ended
            for index in alive:
                yield job.element(index), Report(State.RUNNING, over)
            if job.is_array or not alive:
                rest = State.ENDED if is_explained else State.RUNNING
                yield Element(job.name), Report(rest, over)
            return
        reported = set(ended)
        for index in set(job.pods) - ended:
            if job.has_only_sidecars(index):
                reported.add(index)
                yield job.element(index), Report(State.ENDED, "Ended")
        if with_waiting:
            for index in set(job.pods) - reported:
                report = self._report_of_pods(job, index)
                if report is not None:
                    reported.add(index)
                    yield job.element(index), report
        if job.is_array or not reported:
            yield Element(job.name), self._report_of_the_rest(job, seen, status)

    def _report_of_pods(self, job: _Job, index: int) -> Report | None:
        """The state of an element by its pods, if they say more than the Job does."""
        if index in job.waiting:
            return self._waiting_report(job, index, job.waiting[index])
        if any(pod.began for pod in job.pods[index].values()):
            return Report(State.RUNNING, "Running")
        if job.is_ending(index):  # if its node is lost, we may not even know whether it has begun
            return Report(State.RUNNING, "Terminating")
        return None

    def _report_of_the_rest(
        self, job: _Job, seen: Mapping[str, Any], status: Mapping[str, Any]
    ) -> Report:
        """The state of all elements that have no report of their own, by the Job's status."""
        if seen["spec"].get("suspend"):
            return Report(
                State.PENDING,
                "Pending",
                "Suspended",
                "the Job is suspended, by a queue or by hand",
                notable=True,
            )
        if -1 in job.waiting and not status.get("active"):
            return self._waiting_report(job, -1, job.waiting[-1])
        has_begun = status.get("ready") != 0 if "ready" in status else bool(status.get("active"))
        if status.get("active") and has_begun:
            return Report(State.RUNNING, "Running")
        hopeless = None if status.get("succeeded") else job.hopeless_element()
        if hopeless is not None:
            return self._waiting_report(job, *hopeless)
        for waiting in job.waiting.values():  # any of them
            return Report(State.PENDING, "Pending", waiting.reason, waiting.message)
        return Report(State.PENDING, "Pending", "its pods have not begun")

    def _waiting_report(self, job: _Job, index: int, waiting: Waiting) -> Report:
        return Report(
            State.PENDING,
            "Pending",
            waiting.reason,
            waiting.message,
            job.startup.hopeless(index, waiting),
            notable=waiting.notable,
        )

    # -- queries of pods --

    def _to_explain(self, job: _Job) -> object:
        """The part of a Job's status that only its pods explain: pods are queried if it changes."""
        status = self._status(job)
        return (
            status.get("failedIndexes") or "",
            status.get("failed") or 0,
            status.get("terminating") or 0,
            (self._failure(job) or {}).get("reason"),
            self._is_deleted(job),
        )

    def _should_query_pods(self, jobs: Iterable[_Job]) -> bool:
        now = time.monotonic()
        # A long list is a burden for the server.
        if now < self._queried_at + self._query_pause_s():
            return False
        waits = ending = False
        for job in jobs:
            if job.explained != self._to_explain(job) or self._has_fewer(job):
                return True
            waits = waits or self._waits(job)
            ending = ending or any(map(job.is_ending, job.pods))
        return ending or (waits and now >= self._next_query_at)

    def _has_fewer(self, job: _Job) -> bool:
        """Whether the Job counts fewer pods as ready or ended than before.

        Then a call has ended whose pod goes on with a sidecar: it is no longer ready.
        """
        counted = self._counted(job)
        job.counted = max(job.counted, counted)
        return counted < job.counted

    def _counted(self, job: _Job) -> int:
        status = self._status(job)
        uncounted: dict[str, list[str]] = status.get("uncountedTerminatedPods") or {}
        numbers = (
            status.get(name) or 0 for name in ("ready", "succeeded", "failed", "terminating")
        )
        return sum(numbers) + sum(map(len, uncounted.values()))

    def _end_sidecars(self, job: _Job) -> None:
        """Deletes pods in which only sidecars still run: they take the places of waiting elements.

        Raises: SchedulerError, where deleting them may succeed later.
        """
        pods = {
            index: pod
            for index in job.pods
            if job.has_only_sidecars(index)
            for pod in job.pods[index].values()
            if pod.outlives_worker and pod.uid not in job.ended_by_us
        }
        if not pods:
            return
        stay = "they stay, and hold the places of calls that have not begun"
        if job.replaces_pods:
            outcome = (
                f"{stay}, since this server would put others in the place of those that are deleted"
            )
        else:
            outcome = "they are deleted, so that others can begin"
            try:
                self._delete_pods(job.name, list(pods))
                job.ended_by_us.update(pod.uid for pod in pods.values())
            except Forbidden as exc:
                outcome = f"{stay}: {exc}"
        some = next(iter(pods.values()))
        blocked = some.blocked_beside
        if blocked is None:
            what = f"The container {some.beside[0]!r} goes on"
            advice = (
                " A native sidecar would end by itself: an init container with restartPolicy "
                "Always."
            )
        else:
            words = f"{blocked.reason}: {blocked.message}"
            what, advice = f"The container {blocked.container!r} does not begin ({words})", ""
        self._warn_once(f"{what} in pods whose calls have ended; {outcome}.{advice}", about=outcome)

    def _query_pause_s(self) -> float:
        return min(_MAX_QUERY_PAUSE_S, max(_ENDING_QUERY_S, _PAUSE_FACTOR * self._query_took_s))

    def _waits(self, job: _Job) -> bool:
        """Whether fewer pods of the Job run than could run."""
        seen = self._watch.jobs.get(job.name)
        if seen is None or seen["spec"].get("suspend"):
            return False
        if self._is_deleted(job):  # with the policy Orphan, its pods run on
            return any(map(job.may_run, job.pods))
        status = seen["status"]
        active = status.get("active") or 0
        done = (status.get("succeeded") or 0) + (status.get("failed") or 0)
        wanted = min(seen["spec"].get("parallelism") or 1, job.count - done)
        ready = status.get("ready")
        if ready is None:  # before 1.24
            ready = sum(
                pod.began and pod.blocked_beside is None
                for pods in job.pods.values()
                for pod in pods.values()
            )
        return active < wanted or ready < active

    def _query_pods(self, jobs: Collection[_Job]) -> None:
        """Lists all pods that have not ended well, and the events about those that wait.

        Raises: Unreachable.
        """
        began = time.monotonic()
        explained = [self._to_explain(job) for job in jobs]
        try:
            items, _ = self._server.list(
                self._pods_path,
                labelSelector=self._watch.selector,
                fieldSelector="status.phase!=Succeeded",
            )
        except Forbidden as exc:
            self._warn_once(f"Why pods wait or end can't be found out: {exc}")
            items = []
        except ApiError as exc:
            raise Unreachable(str(exc)) from exc
        found: defaultdict[str, dict[int, dict[str, Pod]]]
        found = defaultdict(lambda: defaultdict(dict))
        for item in items:
            pod = read_pod(item)
            found[job_of(item)][index_of(item) or 0][pod.uid] = pod
        for job, what in zip(jobs, explained):
            self._update_pods(job, found[job.name])
            job.explained = what
            job.counted = self._counted(job)
            try:
                self._end_sidecars(job)
            except SchedulerError as exc:
                _logger.debug("pods with sidecars are deleted later: %s", exc)
        events = self._events(jobs)
        now = self._queried_at = time.monotonic()
        self._query_took_s = now - began
        for job in jobs:
            job.waiting = job.startup.take(self._waiting(job, events), now)
        self._query_interval_s = min(_MAX_QUERY_INTERVAL_S, self._query_interval_s * 2)
        left_s = [
            job.startup.left_s(index, waiting)
            for job in jobs
            for index, waiting in job.waiting.items()
            if waiting.needs_help
        ]
        needs_help = left_s or any(
            pod.blocked_beside
            for job in jobs
            for pods in job.pods.values()
            for pod in pods.values()
        )
        until_next_s = (
            min(self._query_interval_s, _STUCK_QUERY_S) if needs_help else self._query_interval_s
        )
        self._next_query_at = now + min([until_next_s, *(left for left in left_s if left > 0)])

    def _update_pods(self, job: _Job, found: Mapping[int, Mapping[str, Pod]]) -> None:
        now = time.monotonic()
        # Pods that are not listed any more are kept if they say something about their end.
        kept = {
            index: {
                uid: pod
                for uid, pod in pods.items()
                if pod.has_ended or pod.deleted_at is not None or pod.disruption is not None
            }
            for index, pods in job.pods.items()
        }
        job.pods = {}
        for index in {*kept, *found}:
            known, seen = kept.get(index, {}), found.get(index, {})
            gone = {
                uid: replace(pod, is_gone=True) for uid, pod in known.items() if uid not in seen
            }
            # A call that has ended stays as it was then, whatever happens to its pod later.
            ended = {uid: pod for uid, pod in known.items() if uid in seen and pod.outlives_worker}
            pods = {**gone, **seen, **ended}
            if pods:
                job.pods[index] = pods
        alive = {uid: pod for pods in job.pods.values() for uid, pod in pods.items()}
        job.ending_since = {
            uid: job.ending_since.get(uid, now) for uid, pod in alive.items() if pod.is_ending
        }

    def _waiting(self, job: _Job, events: Mapping[str, Collection[Event]]) -> dict[int, Waiting]:
        """Index -> why its pod has not begun; -1: why the Job has no pod."""
        waiting: dict[int, Waiting] = {}
        for index, pods in job.pods.items():
            for pod in pods.values():
                found = None if pod.deleted_at else waits_for(pod, events.get(pod.name, ()))
                if found is not None:
                    waiting[index] = found
        found = job_waits_for(events.get(job.name, ())) if self._is_podless(job) else None
        if found is not None:
            waiting[-1] = found
        return waiting

    def _events(self, jobs: Iterable[_Job]) -> Mapping[str, Collection[Event]]:
        """The events about pods and Jobs whose own state does not say why they wait, by name.

        They are about Jobs that get no pods, mounts that fail, and images. Raises: Unreachable.
        """
        late = [job for job in jobs if _now() - job.created_at > _EVENTS_AFTER_S]
        pods = [
            pod
            for job in late
            for pods in job.pods.values()
            for pod in pods.values()
            if pod.node and not pod.began and not pod.has_ended and pod.deleted_at is None
        ]
        if not pods and not any(map(self._is_podless, late)):
            return {}
        items: list[dict[str, Any]] = []
        try:
            for selector in ("type=Warning", "reason=Pulling") if pods else ("type=Warning",):
                items += self._server.list(self._events_path, fieldSelector=selector)[0]
        except Forbidden as exc:
            self._warn_once(f"Why pods wait can't be found out: {exc}")
        except ApiError as exc:
            raise Unreachable(str(exc)) from exc
        return read_events(items)

    def _is_podless(self, job: _Job) -> bool:
        return not job.pods and not self._is_over(job)

    def _is_over(self, job: _Job) -> bool:
        status = self._status(job)
        spec = self._watch.jobs.get(job.name, {}).get("spec", {})
        done = status.get("succeeded") or status.get("failed")
        return bool(done or spec.get("suspend") or self._is_deleted(job) or self._failure(job))

    # -- endings --

    def explain(
        self, ended: Mapping[Element, Report | None], jobs: Mapping[str, str]
    ) -> Mapping[Element, Ending]:
        ours = [job for name in jobs if (job := self._jobs.get(name)) is not None]
        try:
            if any(job.explained != self._to_explain(job) for job in ours) or (
                time.monotonic() - self._queried_at > max(_PAUSE_FACTOR, self._query_pause_s())
            ):
                self._query_pods(ours)
        except SchedulerError as exc:
            _logger.warning("Why elements of Kubernetes have ended may stay unsaid: %s", exc)
        return {element: self._ending(element) for element in ended}

    def _ending(self, element: Element) -> Ending:
        job = self._jobs.get(element.job_id)
        if job is None:
            return Ending(Cause.LOST, "Its Job is not known any more.")
        pod = pod_that_explains(list(job.pods.get(element.index or 0, {}).values()))
        if pod is not None and job.is_lost(pod):
            return Ending(
                Cause.NODE_FAILURE,
                f"The node {pod.node} of the pod {pod.name} does not answer; the call may still be "
                "running there.",
            )
        if self._is_deleted(job) and (pod is None or pod.disruption is None):
            return Ending(Cause.CANCELLED, f"The Job {job.name} was deleted by somebody else.")
        failure = self._failure(job)
        if failure is not None:
            return self._ending_of_job(job, failure)
        has_another = (element.index or 0) in _indexes(self._status(job).get("completedIndexes"))
        if has_another and (pod is None or pod.gives_no_cause):
            return Ending(
                Cause.PREEMPTED,
                "Its first pod is gone (the Job was suspended and resumed, or the pod was "
                "deleted); a second one found that the call had begun, and did not begin it again.",
            )
        if pod is not None and not pod.began and job.replaces_pods:
            # The server has tried it several times, so we do not.
            why = ending(pod, self._resources)
            # One that was evicted may have begun after it was last seen.
            cause = Cause.NEVER_STARTED if pod.disruption is None else why.cause
            return replace(why, cause=cause, may_go_in_again=False)
        if pod is not None:
            return ending(pod, self._resources)
        return Ending(
            Cause.CANCELLED,
            "Its pod is gone: somebody has deleted it.",
            may_go_in_again=True,
        )

    def _ending_of_job(self, job: _Job, failure: Mapping[str, Any]) -> Ending:
        """Why an element ended whose Job failed as a whole. `failure`: the Job's condition."""
        if failure.get("reason") == "DeadlineExceeded" and self._resources.client_lease_s:
            return Ending(
                Cause.CANCELLED,
                f"The lease of the Job {job.name} ran out: this client did not renew it for "
                f"client_lease_s = {self._resources.client_lease_s} s (it was stopped, or could "
                "not reach Kubernetes).",
                may_go_in_again=True,
            )
        return Ending(
            Cause.CANCELLED,
            f"The Job {job.name} failed as a whole ({failure.get('reason')}): "
            f"{failure.get('message', '')}",
        )

    # -- leases --

    def _renew_leases(self, jobs: Iterable[_Job]) -> None:
        """Puts off the deadlines of these Jobs. The Jobs of a client that died end at theirs."""
        lease_s = self._resources.client_lease_s
        if lease_s is None:
            return
        for job in jobs:
            now = _now()
            start_time = self._status(job).get("startTime")
            if job.start_time is not None and start_time not in (None, job.start_time):
                job.created_at = now  # it was resumed, and its deadline counts from there
                job.renew_at = now
            job.start_time = start_time or job.start_time
            if now < job.renew_at or self._is_deleted(job):
                continue
            deadline_s = int(now - job.created_at) + lease_s
            try:
                self._server.patch(
                    f"{self._jobs_path}/{job.name}", {"spec": {"activeDeadlineSeconds": deadline_s}}
                )
            except Unreachable as exc:
                _logger.debug("the lease of the Job %s is renewed later: %s", job.name, exc)
                job.renew_at = now + min(_LEASE_RETRY_S, lease_s / 12)
                continue
            except ApiError as exc:
                if exc.status != 404:
                    self._warn_once(f"The lease of the Job {job.name} could not be renewed: {exc}")
            job.renew_at = now + lease_s / 3

    # -- cancelling --

    def cancel(self, elements: Collection[Element], token: str) -> None:
        indexes: defaultdict[str, list[int]] = defaultdict(list)
        for element in elements:
            if element.job_id in self._jobs:  # else `forget` has deleted the Job
                indexes[element.job_id].append(element.index or 0)
        try:
            for name, some in indexes.items():
                self._delete_pods(name, some)
        except ApiError as exc:
            raise Unreachable(str(exc)) from exc

    def _delete_pods(self, job: str, indexes: Sequence[int]) -> None:
        """Deletes the pods of these elements of a Job. Raises: ApiError, Unreachable."""
        for start in range(0, len(indexes), _MAX_INDEXES):
            listed = ",".join(map(str, sorted(indexes[start : start + _MAX_INDEXES])))
            self._server.delete(
                self._pods_path, labelSelector=f"job-name={job},{INDEX} in ({listed})"
            )

    def stop(self, job_ids: Collection[str], token: str) -> None:
        self._stopped = True
        if not self._first_tries and not self._jobs_made:
            return
        if own_namespace() is None:
            self._start_stop(token)
            return
        # In a pod, a helper would end with us, so we wait for its end.
        done = subprocess.run(
            helper_command(_STOP, self._arguments_of_stop(token), entries_for("kubernetes")),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env=helper_environment(self._variables_of_stop()),
            cwd="/",
            timeout=_STOP_IN_POD_TIMEOUT_S,
            check=False,
        )
        if done.returncode:
            raise OSError(f"{_STOP}: {done.stderr.decode(errors='replace')}")

    def _start_stop(self, token: str, stdin: str = "") -> None:
        start_helper(
            _STOP,
            self._arguments_of_stop(token),
            stdin=stdin,
            entries=entries_for("kubernetes"),
            changed=self._variables_of_stop(),
        )

    def _arguments_of_stop(self, token: str) -> list[str]:
        return [token, self._resources.namespace, self._server.context or ""]

    def _variables_of_stop(self) -> dict[str, str]:
        config = self._server.config_path
        return {} if config is None else {"KUBECONFIG": config}

    def forget(self, job_id: str) -> None:
        """Deletes the Job, and with it its pods: all its calls are over."""
        script = self._scripts.pop(job_id, None)
        if script is not None:
            with suppress(OSError):  # gone with the run directory
                os.unlink(script)
        if self._jobs.pop(job_id, None) is None:
            return
        self._watch.forget(job_id)
        self._first_tries.pop(job_id, None)
        if not self._stopped:
            self._undeleted.append(job_id)
            self._delete_done()

    def _delete_done(self) -> None:
        """Deletes the Jobs of `_undeleted`, unless a failure was less than a while ago."""
        if time.monotonic() < self._delete_at:
            return
        while self._undeleted:
            try:
                # Without a propagation policy, pods that run would go on.
                self._server.delete(
                    f"{self._jobs_path}/{self._undeleted[-1]}",
                    propagationPolicy="Background",
                    timeout_s=_DELETE_TIMEOUT_S,
                )
            except ApiError as exc:
                self._warn_once(f"Jobs can't be deleted, and go 7 days after their end: {exc}")
            except SchedulerError as exc:
                _logger.debug("Jobs that are done are deleted later: %s", exc)
                self._delete_at = time.monotonic() + _DELETE_PAUSE_S
                return
            self._undeleted.pop()

    def close(self) -> None:
        self._watch.close()
        # A Job whose creation got no answer may have been created.
        if not self._options.keep_jobs_on_exit:
            self._undeleted += [name for name in self._first_tries if name not in self._jobs]
        if self._undeleted and not self._stopped:
            try:
                self._start_stop("", stdin="\n".join(self._undeleted))
            except OSError as exc:
                _logger.warning("Jobs that are done stay for up to 7 days: %s", exc)
            self._undeleted = []
        self._server.close()

    def _warn_once(self, message: str, *, about: str = "") -> None:
        """Warns once. `about`: identifies the warning, if its words may differ the next time."""
        if (about or message) not in self._warned:
            self._warned.add(about or message)
            _logger.warning("%s", message)


def _now() -> float:
    """Seconds by a clock that goes on while this machine sleeps, as the server's clock does."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if _HAS_BOOTTIME else time.time()


def _write_shell(run_directory: str, text: bytes) -> tuple[str, int]:
    """Writes a file that only our user can read: it may hold secrets. Returns: its path and uid."""
    path = os.path.join(run_directory, f"shell.{hashlib.sha256(text).hexdigest()[:16]}")
    temporary = f"{path}.tmp"
    fd = own_files.open_own(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, owner=None)
    with open(fd, "wb") as file:
        owner = os.fstat(fd).st_uid
        file.write(text)
    os.rename(temporary, path)
    return path, owner


def _indexes(text: str | None) -> Iterator[int]:
    """1, 3, 4, 5, 7 of `1,3-5,7`: how a Job's status writes indexes."""
    for part in (text or "").split(","):
        if part:
            first, _, last = part.partition("-")
            yield from range(int(first), int(last or first) + 1)
