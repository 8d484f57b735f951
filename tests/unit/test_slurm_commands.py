"""Promises on reading what Slurm prints.

The texts are what Slurm 22.05.8 printed, with columns that nothing reads cut off; those of other
versions are made after their manual pages and say so.
"""

from __future__ import annotations

import pytest

from cluster_tools.schedulers.base import (
    Refused,
    RefusedForCount,
    RefusedForSize,
    SchedulerError,
    Uncertain,
    Unreachable,
)
from cluster_tools.schedulers.slurm.commands import (
    accounted_elements,
    controlled_elements,
    has_token,
    leading_number,
    parse_size,
    queue_rows,
    refusal,
    script_mark,
    submitted_job_id,
)

POLICY = (
    "sbatch: error: Batch job submission failed: Job violates accounting/QOS policy "
    "(job submit limit, user's size and/or time limits)"
)
SQUEUE = """\
2497_0|COMPLETED|None|/c/run.0a1b2c3d/0a1b2c3d.0.0.0.sh
2501|COMPLETING|None|/odd name|50%/0a1b2c3d.4.0.0.sh
2497_4|FAILED|NonZeroExitCode|/c/run.0a1b2c3d/0a1b2c3d.0.0.0.sh
2498|OUT_OF_MEMORY|OutOfMemory|/c/run.0a1b2c3d/0a1b2c3d.1.0.0.sh
2502_1|PENDING|JobArrayTaskLimit|/c/run.0a1b2c3d/0a1b2c3d.5.0.0.sh
2509|PENDING|JobHeldUser|/c/run.0a1b2c3d/0a1b2c3d.6.0.0.sh
2502_0|RUNNING|None|/c/run.0a1b2c3d/0a1b2c3d.5.0.0.sh
"""
SACCT = """\
2498|OUT_OF_MEMORY|0:125|c1|01:00:00|00:00:00|50M||/c/run.0a1b2c3d/0a1b2c3d.1.0.0.sh
2498.batch|OUT_OF_MEMORY|0:125|c1||00:00:00||1080K|batch
2499|FAILED|0:9|c1|01:00:00|00:00:00|50M||/c/run.0a1b2c3d/0a1b2c3d.2.0.0.sh
2499.batch|CANCELLED|0:9|c1||00:00:00||1084K|batch
2500|FAILED|0:53|c1|01:00:00|00:00:00|50M||/c/run.0a1b2c3d/0a1b2c3d.3.0.0.sh
2500.batch|CANCELLED|0:53|c1||00:00:00|||batch
2501|CANCELLED by 0|0:0|c1|01:00:00|00:00:04|50M||/odd name|50%/0a1b2c3d.4.0.0.sh
2501.batch|CANCELLED|0:0|c1||00:00:04|||batch
2497_5|FAILED|5:0|c1|01:00:00|00:00:00|50M||/c/run.0a1b2c3d/0a1b2c3d.0.0.0.sh
2497_5.batch|FAILED|5:0|c1||00:00:00||3324K|batch
2502_0|CANCELLED by 0|0:0|c1|01:00:00|00:00:04|50M||/c/run.0a1b2c3d/0a1b2c3d.5.0.0.sh
2502_0.batch|CANCELLED|0:15|c1||00:00:05||3204K|batch
2502_[0-3%1]|CANCELLED by 0|0:0|None assigned|01:00:00|00:00:00|50M||/c/run.0a1b2c3d/0a1b2c3d.5.0.0.sh
"""
SCONTROL = """\
JobId=2498 JobName=hog JobState=TIMEOUT UserId=no UserId=root(0) GroupId=root(0) MCS_label=N/A JobState=OUT_OF_MEMORY Reason=OutOfMemory Dependency=(null) Requeue=1 Restarts=0 BatchFlag=1 Reboot=0 ExitCode=0:125 RunTime=00:00:00 TimeLimit=01:00:00 TimeMin=N/A NodeList=c1 BatchHost=c1 NumNodes=1 CPUs/Task=1 ReqB:S:C:T=0:0:*:* TRES=cpu=1,mem=50M,node=1,billing=1 MinMemoryNode=50M Command=/odd name/0a1b2c3d.1.0.0.sh WorkDir=/a JobState=FAILED StdOut=/dev/null Power=\x20
JobId=2502 ArrayJobId=2502 ArrayTaskId=1-3%1 ArrayTaskThrottle=1 JobName=wait JobState=PENDING Reason=JobArrayTaskLimit NodeList= MinMemoryNode=50M Power=\x20
JobId=2505 ArrayJobId=2502 ArrayTaskId=0 ArrayTaskThrottle=1 JobName=wait JobState=RUNNING Reason=None ExitCode=0:0 NodeList=c1 MinMemoryNode=50M Power=\x20
"""


def test_squeues_rows_are_elements_with_a_state_and_a_reason() -> None:
    rows = {(row.job_id, row.index): row for row in queue_rows(SQUEUE)}
    assert set(rows) == {
        *(("2497", 0), ("2497", 4), ("2498", None), ("2501", None)),
        *(("2502", 0), ("2502", 1), ("2509", None)),
    }
    assert rows["2497", 0].state == "COMPLETED"
    assert rows["2498", None].state == "OUT_OF_MEMORY"
    assert (rows["2502", 1].state, rows["2502", 1].reason) == ("PENDING", "JobArrayTaskLimit")
    assert (rows["2509", None].state, rows["2509", None].reason) == ("PENDING", "JobHeldUser")


def test_a_path_may_have_any_sign() -> None:
    rows = {row.job_id: row for row in queue_rows(SQUEUE)}
    assert rows["2501"].command == "/odd name|50%/0a1b2c3d.4.0.0.sh"
    assert accounted_elements(SACCT)["2501", None].submit_line == "/odd name|50%/0a1b2c3d.4.0.0.sh"


def test_a_command_is_of_its_array_and_of_its_executor_and_of_no_other() -> None:
    command = "/c/run.0a1b2c3d/0a1b2c3d.1.0.0.sh"
    assert has_token(command, "0a1b2c3d.1.0.0")
    assert has_token(command, "0a1b2c3d")
    assert has_token(script_mark("0a1b2c3d.1.0.0"), "0a1b2c3d.1.0.0")
    for other in ("0a1b2c3d.1.0.1", "0a1b2c3d.1.0.00", "a1b2c3d.1.0.0", "0a1b2c3", "0a1b2c3e"):
        assert not has_token(command, other)
    assert not has_token("/c/run.0a1b2c3d/of_somebody.sh", "0a1b2c3d")
    assert not has_token("(null)", "0a1b2c3d")


@pytest.mark.parametrize(
    "text", ["", "\n", "slurm_load_jobs error: Invalid job id specified\n", "CLUSTER: other\n"]
)
def test_lines_that_are_no_rows_are_passed_over(text: str) -> None:
    assert queue_rows(text) == []
    assert accounted_elements(text) == {}
    assert controlled_elements(text) == {}


def test_sacct_tells_how_each_element_ended() -> None:
    elements = accounted_elements(SACCT)
    assert elements["2498", None].state == "OUT_OF_MEMORY"
    assert elements["2498", None].requested_memory == "50M"
    assert elements["2498", None].node == "c1"
    assert elements["2498", None].peak_memory_bytes == 1080 << 10  # in the step's row
    assert (elements["2499", None].state, elements["2499", None].exit_code) == ("FAILED", "0:9")
    assert elements["2500", None].exit_code == "0:53"
    assert elements["2501", None].state == "CANCELLED by 0"
    assert elements["2497", 5].exit_code == "5:0"


def test_an_element_of_its_own_row_is_not_taken_for_the_arrays_rest() -> None:
    """The rest's list of indexes is that of the submission: it has the elements that did run,
    too.
    """
    text = """\
2502_0|OUT_OF_MEMORY|0:125|c1|01:00:00|00:00:04|50M||/c/run.0a1b2c3d/0a1b2c3d.5.0.0.sh
2502_0.batch|OUT_OF_MEMORY|0:125|c1||00:00:05||3204K|batch
2502_[0-3%1]|CANCELLED by 0|0:0|None assigned|01:00:00|00:00:00|50M||/c/run.0a1b2c3d/0a1b2c3d.5.0.0.sh
"""
    elements = accounted_elements(text)
    assert elements["2502", 0].state == "OUT_OF_MEMORY"
    assert elements["2502", 0].node == "c1"
    assert {elements["2502", index].state for index in (1, 2, 3)} == {"CANCELLED by 0"}
    assert ("2502", 4) not in elements


def test_the_index_list_of_an_arrays_rest_may_have_gaps() -> None:
    text = "12_[1,3-5,9%2]|CANCELLED by 0|0:0|None assigned|01:00:00|00:00:00|50M||sbatch /a/0.0.0.0.sh\n"
    assert {index for _, index in accounted_elements(text)} == {1, 3, 4, 5, 9}


def test_a_step_that_ran_out_of_memory_makes_its_element_so() -> None:
    text = """\
31|FAILED|1:0|c1|01:00:00|00:00:04|50M||/c/run.0a1b2c3d/0a1b2c3d.5.0.0.sh
31.batch|OUT_OF_ME+|0:125|c1||00:00:05||3204K|batch
31.extern|COMPLETED|0:0|c1||00:00:05||0|extern
"""
    assert accounted_elements(text)["31", None].state == "OUT_OF_MEMORY"


def test_sizes_of_older_versions_say_per_node_or_cpu() -> None:
    """ReqMem before 21.08 ends with n or c, as its manual page says."""
    assert parse_size("50M") == 50 << 20
    assert parse_size("4Gn") == 4 << 30
    assert parse_size("1.5Gc") == 3 << 29
    assert parse_size("30720K") == 30 << 20
    assert parse_size("0") == 0
    assert parse_size("2T") == 2 << 40
    assert parse_size("") is parse_size("?") is None


def test_scontrols_records_are_by_element() -> None:
    records = controlled_elements(SCONTROL)
    assert set(records) == {("2498", None), ("2502", 0)}  # the pending rest is none
    assert records["2498", None]["JobState"] == "OUT_OF_MEMORY"
    assert records["2498", None]["ExitCode"] == "0:125"
    assert records["2498", None]["MinMemoryNode"] == "50M"
    assert has_token(records["2498", None]["Command"], "0a1b2c3d.1.0.0")
    assert records["2502", 0]["NodeList"] == "c1"


@pytest.mark.parametrize(
    ("stdout", "job_id"),
    [
        ("1234\n", "1234"),
        ("1234;dockered\n", "1234"),
        ("Welcome to the cluster!\n2 messages\n1234\n", "1234"),
        ("1\n1234;dockered\n\n", "1234"),
        ("Submitted batch job 1234\n", None),
        ("", None),
    ],
)
def test_the_job_id_is_the_last_line_that_can_be_one(stdout: str, job_id: str | None) -> None:
    assert submitted_job_id(stdout) == job_id


@pytest.mark.parametrize(
    ("words", "kind"),
    [
        # Recorded.
        ("sbatch: error: AssocMaxSubmitJobLimit\n" + POLICY, RefusedForCount),
        ("sbatch: error: QOSMaxSubmitJobPerUserLimit\n" + POLICY, RefusedForCount),
        ("sbatch: error: QOSGrpSubmitJobsLimit\n" + POLICY, RefusedForCount),
        ("sbatch: error: AssocGrpSubmitJobsLimit\n" + POLICY, RefusedForCount),
        (
            "sbatch: error: Batch job submission failed: Invalid job array specification",
            RefusedForSize,
        ),
        (
            "sbatch: error: invalid partition specified: nowhere\n"
            "sbatch: error: Batch job submission failed: Invalid partition name specified",
            Refused,
        ),
        (
            "sbatch: error: Memory specification can not be satisfied\n"
            "sbatch: error: Batch job submission failed: Requested node configuration is not available",
            Refused,
        ),
        (
            "sbatch: error: Batch job submission failed: "
            "Invalid account or account/partition combination specified",
            Refused,
        ),
        ("sbatch: unrecognized option '--nope'", Refused),
        ("sbatch: error: Invalid --time specification", Refused),
        (
            "sbatch: error: Batch job submission failed: "
            "Unable to contact slurm controller (connect failure)",
            Unreachable,
        ),
        # After slurm_errno.c and the page on resource limits.
        ("sbatch: error: MaxSubmitJobsPerAccount\n" + POLICY, RefusedForCount),
        ("sbatch: error: QOSMaxSubmitJobPerAccountLimit\n" + POLICY, RefusedForCount),
        (
            "sbatch: error: Slurm temporarily unable to accept job, sleeping and retrying\n"
            "sbatch: error: Batch job submission failed: Resource temporarily unavailable",
            RefusedForCount,
        ),
        (
            "sbatch: error: Batch job submission failed: Socket timed out on send/recv operation",
            Uncertain,
        ),
        (
            "sbatch: error: Batch job submission failed: Zero Bytes were transmitted or received",
            Uncertain,
        ),
        ("sbatch: error: QOSMaxWallDurationPerJobLimit\n" + POLICY, Refused),
        ("sbatch: error: AssocMaxWallDurationPerJobLimit\n" + POLICY, Refused),
        ("sbatch: error: QOSMaxMemoryPerJob\n" + POLICY, Refused),
    ],
)
def test_a_refusal_is_told_by_the_reasons_word(words: str, kind: type[SchedulerError]) -> None:
    assert type(refusal(words)) is kind
    assert words in str(refusal(words))


@pytest.mark.parametrize(("stdout", "limit"), [("2\n", 2), ("\n", None), ("", None), ("\n6\n", 6)])
def test_a_limit_that_is_not_set_is_an_empty_line(stdout: str, limit: int | None) -> None:
    assert leading_number(stdout) == limit
