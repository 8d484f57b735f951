"""How many elements Slurm accepts: what the environment says, else what Slurm's tools say.

For the scheduler, which keeps the limits, and for the executor, whose users ask for them.
"""

from __future__ import annotations

import getpass
import logging
import os
from collections.abc import Callable

from cluster_tools.schedulers.base import SchedulerError
from cluster_tools.schedulers.slurm.commands import leading_number, query
from cluster_tools.schedulers.slurm.options import Destination

_logger = logging.getLogger("cluster_tools")


def number_from_environment(name: str) -> int | None:
    """The value of an environment variable; None where it is not set. Raises: ValueError."""
    text = os.environ.get(name)
    if not text:
        return None
    try:
        return int(text)
    except ValueError:
        raise ValueError(f"the environment variable {name} is no number: {text!r}") from None


def _configuration(name: str, destination: Destination) -> str | None:
    """A value of slurm.conf, as slurmctld knows it. Raises: SchedulerError."""
    for line in query("scontrol", *destination.arguments, "show", "config").splitlines():
        key, _, value = line.partition("=")
        if key.strip() == name:
            return value.strip()
    return None


def max_array_size_of(destination: Destination) -> int | None:
    """Slurm's MaxArraySize; None where it is not told. Raises: SchedulerError.

    https://slurm.schedmd.com/slurm.conf.html#OPT_MaxArraySize
    """
    text = _configuration("MaxArraySize", destination)
    return int(text) if text is not None and text.isdigit() else None


def max_submit_jobs_of_user(destination: Destination) -> int | None:
    """The lowest MaxSubmitJobs of the user's associations with this cluster, account and partition.

    None where there is no limit. Raises: SchedulerError.
    https://slurm.schedmd.com/resource_limits.html
    """
    conditions = [f"user={getpass.getuser()}"]
    cluster = destination.cluster or _configuration("ClusterName", destination)
    if cluster:
        conditions.append(f"cluster={cluster}")
    if destination.account:
        conditions.append(f"account={destination.account}")
    stdout = query(
        *("sacctmgr", "--noheader", "--parsable2", "list", "associations", *conditions),
        "format=partition,maxsubmitjobs",
    )
    limits = [
        int(limit)
        for partition, _, limit in (line.rpartition("|") for line in stdout.splitlines())
        if limit.strip().isdigit() and partition in ("", destination.partition)
    ]
    return min(limits, default=None)


def max_submit_jobs_of_qos(destination: Destination) -> int | None:
    """MaxSubmitJobsPerUser of the QOS; None where there is no limit. Raises: SchedulerError."""
    return leading_number(
        query(
            *("sacctmgr", "--noheader", "--parsable2", "list", "qos", destination.qos or "normal"),
            "format=maxsubmitjobsperuser",
        )
    )


def _max_submit_jobs(destination: Destination) -> int | None:
    of_user = max_submit_jobs_of_user(destination)
    return max_submit_jobs_of_qos(destination) if of_user is None else of_user


def queued_ids(destination: Destination, state: str | None = None) -> list[str]:
    """`<jobid>` or `<jobid>_<index>` of each element of the user in the queue, all or in `state`.

    Raises: SchedulerError.
    """
    states = [f"--states={state}"] if state else []
    command = ("squeue", *destination.arguments, "--all", "--me", "--noheader", "--array")
    # With --clusters, a line "CLUSTER: ..." stands before the rows.
    lines = query(*command, "--format=%i", *states).splitlines()
    return [line.strip() for line in lines if line[:1].isdigit()]


# What `get_max_array_size` and `get_max_submit_jobs` return where there is no limit, as in 4.3.3.
_UNLIMITED = 2**32


def _limit(
    variable: str, query_slurm: Callable[[Destination], int | None], destination: Destination
) -> int:
    """The limit that an environment variable says, else Slurm. Raises: ValueError."""
    limit = number_from_environment(variable)
    if limit is None:
        try:
            limit = query_slurm(destination)
        except SchedulerError as exc:  # there may be no accounting
            _logger.warning(
                "Slurm does not tell the limit that %s would override: %s", variable, exc
            )
    return _UNLIMITED if limit is None else limit


def max_array_size_or_many(destination: Destination) -> int:
    """How many elements an array may have: SLURM_MAX_ARRAY_SIZE, else Slurm's MaxArraySize."""
    return _limit("SLURM_MAX_ARRAY_SIZE", max_array_size_of, destination)


def max_submit_jobs_or_many(destination: Destination) -> int:
    """How many elements a user may have in the queue.

    SLURM_MAX_SUBMIT_JOBS, else the user's limit, else that of the QOS.
    """
    return _limit("SLURM_MAX_SUBMIT_JOBS", _max_submit_jobs, destination)


def number_of_queued(destination: Destination, state: str | None = None) -> int:
    """How many elements of the user are in the queue, all or in `state`. Raises: SchedulerError."""
    return len(queued_ids(destination, state))
