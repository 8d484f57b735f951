"""The executor for Slurm: its scheduler, and the questions about limits that users may ask."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar

from cluster_tools.caller import warn_caller
from cluster_tools.executors.cluster import ClusterExecutor
from cluster_tools.file_system import is_on_one_machine_only
from cluster_tools.schedulers.base import Options, Scheduler
from cluster_tools.schedulers.slurm.limits import (
    max_array_size_or_many,
    max_submit_jobs_or_many,
    number_from_environment,
    number_of_queued,
    queued_ids,
)
from cluster_tools.schedulers.slurm.options import Destination, destination_of
from cluster_tools.schedulers.slurm.scheduler import SlurmScheduler

_Arguments = ParamSpec("_Arguments")
_Answer = TypeVar("_Answer")


class _DestinationQuery(Generic[_Arguments, _Answer]):
    """A method that queries the cluster of an executor's jobs.

    It may be called on the class, too: then the environment says which cluster.
    """

    def __init__(self, query: Callable[Concatenate[Destination, _Arguments], _Answer]):
        self._query = query
        self.__doc__ = query.__doc__

    def __get__(
        self, executor: SlurmExecutor | None, kind: type[SlurmExecutor]
    ) -> Callable[_Arguments, _Answer]:
        def query(*args: _Arguments.args, **kwargs: _Arguments.kwargs) -> _Answer:
            # `SlurmExecutor`, below, is the only class with such queries.
            own = None if executor is None else executor._destination  # pyright: ignore  # noqa: SLF001
            return self._query(own or destination_of({}), *args, **kwargs)

        query.__doc__ = self.__doc__
        return query


class SlurmExecutor(ClusterExecutor):
    """Runs calls as jobs of a Slurm cluster.

    `job_resources`: options of sbatch, https://slurm.schedmd.com/sbatch.html. `{"mem": "4G",
    "exclusive": True, "c": 4}` is `--mem=4G --exclusive -c 4`; options that are False or None are
    left out. The other arguments are those of `ClusterExecutor`.
    """

    # Where the jobs go: cluster, account, partition and QOS.
    _destination: Destination

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        if is_on_one_machine_only(self.cfut_dir):
            warn_caller(
                f"cfut_dir {self.cfut_dir} seems to be on a disk that the nodes of a cluster do "
                "not share"
            )

    def _make_scheduler(self, options: Options) -> Scheduler:
        scheduler = SlurmScheduler(options)
        self._destination = scheduler.destination
        return scheduler

    get_max_array_size = _DestinationQuery(max_array_size_or_many)
    get_max_submit_jobs = _DestinationQuery(max_submit_jobs_or_many)
    get_number_of_submitted_jobs = _DestinationQuery(number_of_queued)

    @classmethod
    def get_max_running_size(cls) -> int:
        """How many elements of an array may run at a time: SLURM_MAX_RUNNING_SIZE; 0: no limit.

        Raises: ValueError, where the variable is no number.
        """
        return number_from_environment("SLURM_MAX_RUNNING_SIZE") or 0

    def get_pending_tasks(self) -> set[str]:
        """The ids of the user's pending elements, `<jobid>` or `<jobid>_<index>`.

        Raises: SchedulerError, where Slurm does not answer.
        """
        return set(queued_ids(self._destination, "PENDING"))
