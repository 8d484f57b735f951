"""Setting the limits of a real Slurm, and seeing how calls were cut to them."""

from __future__ import annotations

import re
import subprocess
from collections import Counter
from typing import Any

from support.clusters import command
from support.waiting import wait_until

NO_LIMIT = -1  # to sacctmgr


def limit_user(max_submit_jobs: int) -> None:
    """Sets MaxSubmitJobs of this user; returns when it is in force."""
    _modify("user", "root", f"MaxSubmitJobs={max_submit_jobs}")
    # Behind the limit is how much of it is used.
    shown = "" if max_submit_jobs == NO_LIMIT else rf"{max_submit_jobs}\(\d+\)"
    wait_until(
        lambda: any(
            "UserName=root(" in line and re.search(f" MaxSubmitJobs={shown} ", line)
            for line in _in_force("assoc")
        ),
        f"MaxSubmitJobs={max_submit_jobs} of the user",
    )


def limit_qos(max_submit_jobs: int) -> None:
    """Sets MaxSubmitJobsPerUser of the QOS that jobs have; returns when it is in force."""
    _modify("qos", "normal", f"MaxSubmitJobsPerUser={max_submit_jobs}")
    shown = "N" if max_submit_jobs == NO_LIMIT else max_submit_jobs
    wait_until(
        lambda: any(
            # Users are listed once they have had a job.
            f" MaxSubmitJobsPU={shown}(" in line or "MaxSubmitJobsPU" not in line
            for line in _in_force("qos")
            if line.startswith("QOS=normal")
        ),
        f"MaxSubmitJobsPerUser={max_submit_jobs} of the QOS",
    )


def _modify(kind: str, name: str, setting: str) -> None:
    command("sacctmgr", "--immediate", "modify", kind, name, "set", setting)


def _in_force(kind: str) -> list[str]:
    """What slurmctld has heard of the limits in accounting."""
    return command("scontrol", "--oneliner", "show", "assoc_mgr", "users=root", f"flags={kind}")


def restart_slurmctld() -> None:
    subprocess.run(["restart-slurmctld"], stdout=subprocess.DEVNULL, timeout=50, check=True)


def piece_sizes(futures: list[Any]) -> list[int]:
    """How many elements each job of an array has, in the order of submission."""
    counts = Counter(future.cluster_jobid for future in futures)
    for job_id in counts:
        indices = [f.cluster_jobindex for f in futures if f.cluster_jobid == job_id]
        assert indices == list(range(len(indices)))
    return list(counts.values())
