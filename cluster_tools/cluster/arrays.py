"""Writes array files and builds the command that runs an element of an array."""

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
    """Makes the arrays of one executor. All methods may be called in any thread."""

    def __init__(self, directory: RunDirectory, settings: Settings, scheduler: Scheduler):
        self._directory = directory
        self._settings = settings
        self._scheduler = scheduler
        self._call_numbers = itertools.count()

    def unique_id(self) -> str:
        """Returns an id for one call. The default keys of an output store contain it."""
        return f"{self._directory.token}_{next(self._call_numbers)}"

    def begin(self) -> ArrayWriter:
        """Creates the file of a new array. Raises: OSError; NotOurs."""
        return self._directory.begin_array()

    def write(self, calls: Sequence[Call]) -> CallArray:
        """Writes calls of `submit` as one array. All of them have the same `Call.kind`.

        Raises: OSError; NotOurs.
        """
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
        """Completes the array's file and returns the array. Raises: OSError.

        Arguments:
            keys: Each task's key in the output store; None if outputs go into the run directory.
            kept: The caller has chosen the keys, so the outputs are kept.
            indexed: The calls come from `map_to_futures` or `map`: each future has an index.
            numbers: The number that the caller gives to each task. Default: 0, 1, 2, and so on.
            total: How many tasks the caller counts in all. Default: the tasks of this array.
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
        """Completes the array's file. Returns: the number of its first task.

        `initializer`: whether the worker runs the executor's initializer before the call.
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
        """The command that each element runs, without the arguments that the scheduler adds."""
        return [
            *self._settings.worker,
            job.array.path,
            run_files.pack_tasks(job.tasks()),
            str(job.submission),
        ]
