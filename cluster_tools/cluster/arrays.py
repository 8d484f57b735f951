"""Makes arrays: their files, what stands in those, and the command that runs an element of them."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

from cluster_tools.cluster import run_directory
from cluster_tools.cluster.calls import Call, CallArray
from cluster_tools.cluster.future import ClusterFuture
from cluster_tools.cluster.run_directory import ArrayWriter, RunDirectory
from cluster_tools.cluster.settings import Settings
from cluster_tools.cluster.tasks import Job
from cluster_tools.format import run_files
from cluster_tools.schedulers.base import Scheduler


class Arrays:
    """In any thread."""

    def __init__(self, directory: RunDirectory, settings: Settings, scheduler: Scheduler):
        self._directory = directory
        self._settings = settings
        self._scheduler = scheduler
        self._call_numbers = itertools.count()

    def unique_id(self) -> str:
        """Names a call in the default keys of an output store."""
        return f"{self._directory.token}_{next(self._call_numbers)}"

    def begin(self) -> ArrayWriter:
        """Raises: OSError; NotOurs."""
        return self._directory.begin_array()

    def write(self, calls: Sequence[Call]) -> CallArray:
        """The array of some calls of `submit`, which are of one kind. Raises: OSError."""
        writer = self.begin()
        first = calls[0]
        try:
            for call in calls:
                writer.add(call.function, call.call, call.key)
            return self.finish(
                writer,
                first.name,
                [call.future for call in calls],
                [call.key for call in calls if call.key is not None] or None,
                working_directory=first.working_directory,
                kept=first.kept,
                indexed=False,
            )
        except BaseException:
            writer.discard()
            raise

    def finish(
        self,
        writer: ArrayWriter,
        name: str,
        futures: Sequence[ClusterFuture[Any]],
        keys: list[str] | None,
        *,
        working_directory: str,
        kept: bool,
        indexed: bool,
        numbers: Sequence[int] | None = None,
        total: int | None = None,
    ) -> CallArray:
        """Puts what was written in its place. Raises: OSError.

        Arguments:
            keys: Each task's key in the output store; None where outputs go into the run directory.
            kept: The caller has named the keys.
            indexed: Of map_to_futures or map: each future has an index.
            numbers, total: What the caller counts each task as; default: all of them, from 0 on.
        """
        first = self.finish_file(
            writer,
            working_directory,
            has_keys=keys is not None,
            initializer=self._settings.initializer is not None,
        )
        return CallArray(
            name=name,
            count=len(futures),
            futures=list(futures),
            indexed=indexed,
            keys=keys,
            kept=kept,
            path=writer.path,
            number=writer.number,
            first=first,
            working_directory=working_directory,
            numbers=range(len(futures)) if numbers is None else numbers,
            total=len(futures) if total is None else total,
            on_pilots=self._settings.pilot_jobs is not None,
        )

    def finish_file(
        self, writer: ArrayWriter, working_directory: str, *, has_keys: bool, initializer: bool
    ) -> int:
        """Puts the file in its place.

        `initializer`: the worker runs it. Returns: the number of its first task.

        Raises: OSError.
        """
        manifest = run_directory.manifest(
            working_directory,
            self._settings.logging,
            self._settings.store if has_keys else None,
            notice_s=self._scheduler.notice_s,
            own_cgroup=not self._scheduler.on_this_machine,
            linger_s=self._settings.linger_s,
            initializer=initializer,
        )
        return writer.finish(manifest)

    def worker_command(self, job: Job) -> list[str]:
        """What each element of the job runs."""
        return [
            *self._settings.worker,
            job.array.path,
            run_files.pack_tasks(job.tasks()),
            str(job.submission),
        ]
