"""What tests of faults look for: what an error says, and jobs that Slurm runs again."""

from __future__ import annotations

import os
from typing import Any

from cluster_tools.errors import RemoteException
from support.clusters import SLURM, command, element_of
from support.waiting import wait_until


def assert_says(error: BaseException | None, kind: type[RemoteException], future: Any) -> str:
    """Asserts that the error is of this kind and names task, job and log; returns its text."""
    assert isinstance(error, kind), repr(error)
    text = str(error)
    element = element_of(future)
    assert error.job_id == element
    assert f"(job {element})" in text
    log = os.path.join(
        future._owner.jobs._log_directory, f"{SLURM.log_prefix}.{element}.log.stdout"
    )
    assert (log in text) is os.path.exists(log)
    return text


def sacct_line(future: Any) -> str:
    """The beginning of the command that a message advises."""
    return f"`sacct -j {element_of(future)} "


def let_run_again(job_id: str) -> None:
    """Waits until Slurm has requeued the job, and has it run at once: it would hold it back for two
    minutes.
    """

    def is_back() -> bool:
        (record,) = command("scontrol", "--oneliner", "show", "job", job_id)
        return "JobState=PENDING" in record and "Reason=BeginTime" in record

    wait_until(is_back, f"the requeue of job {job_id}")
    # In the second of the requeue the node would still refuse the job ("credential revoked").
    command("scontrol", "update", f"jobid={job_id}", "starttime=now+2")
