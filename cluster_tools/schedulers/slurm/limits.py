"""How many elements Slurm takes: what the environment says, else what Slurm's tools say.

Asked for by the scheduler, which keeps the limits, and by the executor, whose users ask for them.
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
    text = os.environ.get(name)
    if not text:
        return None
    try:
        return int(text)
    except ValueError:
        raise ValueError(f"the environment variable {name} is no number: {text!r}") from None


def _configuration(name: str, destination: Destination) -> str | None:
    """A value of slurm.conf. Raises: SchedulerError."""
    for line in query("scontrol", *destination.arguments, "show", "config").splitlines():
        key, _, value = line.partition("=")
        if key.strip() == name:
            return value.strip()
    return None


def max_array_size_of(destination: Destination) -> int | None:
    text = _configuration("MaxArraySize", destination)
    return int(text) if text is not None and text.isdigit() else None


def max_submit_jobs_of_user(destination: Destination) -> int | None:
    """The lowest limit of the user's associations with what he has asked for; with an account, with that."""
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
    """`<jobid>` or `<jobid>_<index>` of each element of the user's in the queue, all or those in `state`."""
    states = [f"--states={state}"] if state else []
    command = ("squeue", *destination.arguments, "--all", "--me", "--noheader", "--array")
    # Before the rows of a cluster that is named stands "CLUSTER: ...".
    lines = query(*command, "--format=%i", *states).splitlines()
    return [line.strip() for line in lines if line[:1].isdigit()]


_UNLIMITED = 2**32  # what "no limit" is to callers of get_max_array_size and get_max_submit_jobs


def _limit(
    variable: str, ask: Callable[[Destination], int | None], destination: Destination
) -> int:
    limit = number_from_environment(variable)
    if limit is None:
        try:
            limit = ask(destination)
        except SchedulerError as exc:  # no accounting, say
            _logger.warning(
                "Slurm does not tell the limit that %s would override: %s", variable, exc
            )
    return _UNLIMITED if limit is None else limit


def max_array_size_or_many(destination: Destination) -> int:
    """How many elements an array may have: SLURM_MAX_ARRAY_SIZE, else Slurm's MaxArraySize."""
    return _limit("SLURM_MAX_ARRAY_SIZE", max_array_size_of, destination)


def max_submit_jobs_or_many(destination: Destination) -> int:
    """How many elements a user may have in the queue: SLURM_MAX_SUBMIT_JOBS, else the user's limit, else
    that of the QOS."""
    return _limit("SLURM_MAX_SUBMIT_JOBS", _max_submit_jobs, destination)


def number_of_queued(destination: Destination, state: str | None = None) -> int:
    """How many elements of the user are in the queue, all or those in `state`."""
    return len(queued_ids(destination, state))
