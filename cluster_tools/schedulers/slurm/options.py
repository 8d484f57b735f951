"""`job_resources` for Slurm: reads them, checks them, and makes them the options of sbatch.

Knows the options of sbatch, https://slurm.schedmd.com/sbatch.html, and runs no command. An option
that can't take effect is refused, or leads to a warning; none is silently ignored.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cluster_tools.caller import warn_caller

_IS_OURS = "which belongs to the executor"
_MAKES_NO_JOB = "with which sbatch makes no job"
# Options that are refused -> their letter, and why.
_REFUSED = {
    "array": ("a", _IS_OURS),
    "output": ("o", _IS_OURS),
    "error": ("e", _IS_OURS),
    "wait": ("W", _IS_OURS),
    "wrap": ("", _IS_OURS),
    "parsable": ("", _IS_OURS),
    "chdir": ("D", _IS_OURS),
    "open-mode": ("", _IS_OURS),
    "test-only": ("", _MAKES_NO_JOB),
    "help": ("h", _MAKES_NO_JOB),
    "usage": ("", _MAKES_NO_JOB),
    "version": ("V", _MAKES_NO_JOB),
    "uid": ("", "and only jobs of the user who submits them can be watched"),
}
# With the value "help" for one of these, sbatch prints its values and submits nothing.
_HAVE_HELP = {"cpu-freq", "gpu-bind", "gpu-freq", "gres", "hint", "mem-bind"}
# Letters of options that this module reads -> their long names.
_LETTERS = {
    "A": "account",
    "J": "job-name",
    "M": "clusters",
    "d": "dependency",
    "p": "partition",
    "q": "qos",
}
# Options that this module reads.
_READ = {*_LETTERS.values(), "export", "requeue", "signal"}
# Options by which users set the number of Slurm's tasks; without any, one is asked for.
_TASK_COUNTS = {"n", "N", "ntasks", "nodes", "ntasks-per-node", "ntasks-per-core"} | {
    "ntasks-per-gpu",
    "ntasks-per-socket",
}
# Options that the executor itself sets for pilots -> why the user must not.
_NOT_WITH_PILOTS = {
    "requeue": "a pilot must not run again: its calls go to the others",
    "signal": "a pilot is told by a signal of the executor's own that its time is nearly over",
}


@dataclass(frozen=True)
class Destination:
    """Where jobs go: says whose limits count and which cluster to query. None: Slurm's default."""

    cluster: str | None = None
    account: str | None = None
    partition: str | None = None
    qos: str | None = None

    @property
    def arguments(self) -> list[str]:
        """The options with which all other commands ask the cluster that jobs were submitted to."""
        return [f"--clusters={self.cluster}"] if self.cluster else []


@dataclass(frozen=True)
class Requested:
    """What `job_resources` ask for."""

    destination: Destination
    # Options of sbatch, without those for the name and the cluster.
    arguments: Sequence[str]
    job_name: str | None
    # Options that sbatch reads from its environment, since command lines can be seen by all users.
    variables: Mapping[str, str]
    # `dependency=singleton`: of the user's jobs of this name, only one is to run at a time.
    is_singleton: bool


def read_resources(resources: Mapping[str, Any]) -> Requested:
    """Reads `job_resources`, and sbatch's environment variables for some of the same options.

    Raises: ValueError, for an option that belongs to the executor or with which it can't work, and
    for text that is not one line.
    """
    named = _named(resources)
    name, destination = named.pop("job-name", None), destination_of(named)
    named.pop("clusters", None)
    exported = named.pop("export", None)
    signal = str(named.get("signal", "B:")).partition("@")[0]
    if "B" not in signal.rpartition(":")[0]:
        warn_caller(
            f"job_resources: signal={named['signal']} reaches only job steps that a call starts "
            f"with srun; the call itself gets it with signal=B:{named['signal']}"
        )
    return Requested(
        destination,
        _words(named),
        None if name is None else str(name),
        {} if exported is None else {"SBATCH_EXPORT": str(exported)},
        "singleton" in str(named.get("dependency", "")).lower(),
    )


def refuse_for_pilots(resources: Mapping[str, Any]) -> None:
    """Raises: ValueError, for an option that has no effect, or a wrong one, on pilots."""
    for name in _named(resources):
        if name in _NOT_WITH_PILOTS:
            raise ValueError(f"job_resources: no {name!r} with pilots: {_NOT_WITH_PILOTS[name]}")


def destination_of(named: Mapping[str, Any]) -> Destination:
    """`named`: long name of an option -> value. Raises: ValueError, for more than one cluster."""

    def value(option: str, *variables: str) -> str | None:
        if named.get(option):
            return str(named[option])
        return next((text for name in variables if (text := os.environ.get(name))), None)

    cluster = value("clusters", "SBATCH_CLUSTERS", "SLURM_CLUSTERS")
    if cluster is not None and (cluster == "all" or "," in cluster):
        raise ValueError(
            f"{cluster!r} is more than one cluster: name the one that the jobs are to run on with "
            'job_resources={"clusters": ...}, as the ids of several can be the same'
        )
    return Destination(
        cluster,
        value("account", "SBATCH_ACCOUNT"),
        value("partition", "SBATCH_PARTITION"),
        value("qos", "SBATCH_QOS"),
    )


def _named(resources: Mapping[str, Any]) -> dict[str, Any]:
    """`resources` with each key as sbatch spells it, without dashes; those of `_READ` by long name.

    Raises: ValueError.
    """
    named: dict[str, Any] = {}
    for key, value in resources.items():
        text = f"{key}{value}"
        name, _, rest = str(key).lstrip("-").partition("=")
        if rest and value is True:  # {"--qos=high": True}
            value = rest
        elif rest or not name or text.splitlines() != [text]:
            raise ValueError(f"job_resources: {key!r}: {value!r} is not one line")
        if len(name) > 1:
            name = name.replace("_", "-")
        _check(key, name, value)
        if value is not None and value is not False:
            named[_LETTERS.get(name, name)] = value
    return named


def _check(key: object, name: str, value: object) -> None:
    """Raises: ValueError, for a key that is refused, or abbreviates one, as sbatch allows."""
    for refused, (letter, reason) in _REFUSED.items():
        if name == letter or (len(name) > 1 and refused.startswith(name)):
            raise ValueError(f"job_resources: {key!r} is the option --{refused}, {reason}")
    for read in _READ:
        if name != read and len(name) > 1 and read.startswith(name):
            raise ValueError(f"job_resources: write {read} in full, not {key!r}")
    if name in _HAVE_HELP and value == "help":
        raise ValueError(f"job_resources: {key!r}: 'help' is a value {_MAKES_NO_JOB}")


def _words(named: Mapping[str, Any]) -> list[str]:
    """`{"mem": "4G", "exclusive": True, "c": 4}` as `--mem=4G --exclusive -c 4`."""
    words: list[str] = []
    for name, value in named.items():
        if len(name) == 1:
            words += [f"-{name}"] if value is True else [f"-{name}", str(value)]
        else:
            words.append(f"--{name}" if value is True else f"--{name}={value}")
    return words if not _TASK_COUNTS.isdisjoint(named) else ["--ntasks=1", *words]
