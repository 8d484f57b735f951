"""Promises of the Slurm scheduler on commands that fail, hang or are not there: fakes on PATH."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cluster_tools.executors.slurm import SlurmExecutor
from cluster_tools.schedulers.base import (
    ArrayRequest,
    Cause,
    Element,
    Options,
    Refused,
    RefusedForCount,
    Report,
    State,
    Uncertain,
    Unreachable,
)
from cluster_tools.schedulers.slurm.commands import SQUEUE_HEADER
from cluster_tools.schedulers.slurm.limits import max_submit_jobs_of_user
from cluster_tools.schedulers.slurm.options import read_resources
from cluster_tools.schedulers.slurm.scheduler import SlurmScheduler

TOKEN = "0a1b2c3d.0.0.0"
OURS = f"/cfut/run.0a1b2c3d/{TOKEN}.sh"  # what Slurm has for the command
Fake = Callable[..., None]


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fake:
    """Puts a command on PATH that prints a text, notes its arguments, its environment and the
    script it is given.
    """
    directory = tmp_path / "bin"
    directory.mkdir()
    monkeypatch.setenv("PATH", str(directory))
    monkeypatch.chdir(tmp_path)  # the run directory
    for name in ("SLURM_MAX_SUBMIT_JOBS", "SLURM_MAX_ARRAY_SIZE", "SLURM_MAX_RUNNING_SIZE"):
        monkeypatch.delenv(name, raising=False)

    def install(name: str, stdout: str = "", stderr: str = "", status: int = 0) -> None:
        if name == "squeue" and "|" in stdout:
            stdout = f"{SQUEUE_HEADER}\n{stdout}"
        program = directory / name
        program.write_text(
            f"#!{sys.executable}\n"
            "import os, sys\n"
            f"open({str(tmp_path / name)!r}, 'a').write(repr(sys.argv[1:]) + '\\n')\n"
            f"open({str(tmp_path / name)!r} + '.env', 'w').write(repr(dict(os.environ)))\n"
            "if os.path.isfile(sys.argv[-1]):\n"
            "    script = open(sys.argv[-1]).read()\n"
            f"    open({str(tmp_path / name)!r} + '.script', 'w').write(script)\n"
            f"sys.stdout.write({stdout!r}); sys.stderr.write({stderr!r}); sys.exit({status})\n"
        )
        program.chmod(0o755)

    return install


def _scheduler(**resources: Any) -> SlurmScheduler:
    return SlurmScheduler(Options(job_resources=resources, log_directory="/logs/100%"))


def _request(count: int = 3, *, is_array: bool = True) -> ArrayRequest:
    return ArrayRequest(
        "call", TOKEN, count, is_array, ["python", "worker.py"], "/somewhere", os.getcwd()
    )


def _arguments(tmp_path: Path, name: str) -> list[str]:
    """Of the last call."""
    return eval((tmp_path / name).read_text().splitlines()[-1])


def test_sbatch_is_given_the_array_and_a_script_whose_path_has_the_token(
    fake: Fake, tmp_path: Path
) -> None:
    fake("sbatch", "Welcome!\n77\n")
    assert _scheduler(mem="1G", c=2, exclusive=True, time=None).submit(_request()) == "77"
    arguments = _arguments(tmp_path, "sbatch")
    assert "--parsable" in arguments
    assert "--array=0-2" in arguments
    assert "--job-name=call" in arguments
    assert "--output=/logs/100%%/slurmpy.%A_%a.log.stdout" in arguments
    assert "--open-mode=append" in arguments
    assert {"--mem=1G", "--exclusive", "--ntasks=1"} <= set(arguments)
    assert arguments[arguments.index("-c") + 1] == "2"
    assert not any("time" in argument for argument in arguments)
    assert arguments[-1] == str(tmp_path / f"{TOKEN}.sh")
    assert not os.path.exists(arguments[-1])  # sbatch has read it
    script = (tmp_path / "sbatch.script").read_text()
    assert script.startswith("#!/bin/sh\n")
    assert "exec python worker.py" in script


def test_a_single_call_is_no_array(fake: Fake, tmp_path: Path) -> None:
    fake("sbatch", "77\n")
    _scheduler().submit(_request(1, is_array=False))
    arguments = _arguments(tmp_path, "sbatch")
    assert not any(argument.startswith("--array") for argument in arguments)
    assert "--output=/logs/100%%/slurmpy.%j.log.stdout" in arguments


def test_the_surrounding_jobs_variables_are_not_handed_on(
    fake: Fake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("SLURM_JOB_ID", "SLURM_CPU_BIND", "SLURM_MEM_PER_CPU", "SLURM_CONF", "SLURM_JWT"):
        monkeypatch.setenv(name, "1")
    fake("sbatch", "77\n")
    _scheduler().submit(_request())
    environment = eval((tmp_path / "sbatch.env").read_text())
    assert {name for name in environment if name.startswith("SLURM_")} == {
        "SLURM_CONF",
        "SLURM_JWT",
    }


def test_a_refusal_has_sbatchs_words_and_the_command(fake: Fake) -> None:
    fake("sbatch", stderr="sbatch: error: invalid partition specified: nowhere\n", status=1)
    with pytest.raises(Refused, match=r"invalid partition[\s\S]*sbatch --parsable"):
        _scheduler(partition="nowhere").submit(_request())


def test_an_sbatch_that_prints_no_id_leaves_it_uncertain(fake: Fake) -> None:
    fake("sbatch", "Submitted, I think\n")
    with pytest.raises(Uncertain, match="Submitted, I think"):
        _scheduler().submit(_request())


def test_a_message_on_stderr_of_a_successful_sbatch_does_no_harm(fake: Fake) -> None:
    fake("sbatch", "77\n", stderr="sbatch: lua: your account is about to expire\n")
    assert _scheduler().submit(_request()) == "77"


def test_a_controller_that_does_not_answer_is_unreachable(fake: Fake) -> None:
    words = "Unable to contact slurm controller (connect failure)"
    for name in ("sbatch", "squeue"):
        fake(name, stderr=f"{name}: error: {words}\n", status=1)
    with pytest.raises(Unreachable):
        _scheduler().submit(_request())
    with pytest.raises(Unreachable):
        _scheduler().states({"77": TOKEN})
    with pytest.raises(Unreachable):
        _scheduler().find(TOKEN)


@pytest.mark.parametrize("text", ["", "the queue is not available, come back later\n"])
def test_what_lacks_squeues_header_is_no_answer_of_squeue(fake: Fake, text: str) -> None:
    fake("squeue", text)
    with pytest.raises(Unreachable, match="no list of jobs"):
        _scheduler().states({"77": TOKEN})
    with pytest.raises(Unreachable, match="no list of jobs"):
        _scheduler().find(TOKEN)


def test_the_environments_limit_is_kept_before_sbatch_is_called(
    fake: Fake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_MAX_SUBMIT_JOBS", "4")
    fake("squeue", "70_0\n70_1\n")
    with pytest.raises(RefusedForCount):
        _scheduler().submit(_request(3))
    assert not (tmp_path / "sbatch").exists()
    assert _scheduler().max_submitted() == 4
    assert SlurmExecutor.get_max_submit_jobs() == 4


def test_states_are_of_our_own_jobs_only(fake: Fake) -> None:
    fake(
        "squeue",
        f"77_0|RUNNING|None|{OURS}\n"
        f"77_1|PENDING|Resources|{OURS}\n"
        f"77_2|OUT_OF_MEMORY|OutOfMemory|{OURS}\n"
        f"78|COMPLETED|None|/home/somebody/else.sh\n"
        f"79|RUNNING|None|/cfut/run.0a1b2c3d/0a1b2c3d.9.0.0.sh\n",
    )
    states = _scheduler().states({"77": TOKEN, "78": "0a1b2c3d.1.0.0"})
    assert {element: report.state for element, report in states.items()} == {
        Element("77", 0): State.RUNNING,
        Element("77", 1): State.PENDING,
        Element("77", 2): State.ENDED,
    }


@pytest.mark.parametrize(
    ("word", "state"),
    [
        *((word, State.PENDING) for word in ("PENDING", "REQUEUED", "REQUEUE_HOLD")),
        *((word, State.RUNNING) for word in ("RUNNING", "COMPLETING", "SUSPENDED", "STAGE_OUT")),
        *((word, State.RUNNING) for word in ("SIGNALING", "STOPPED", "RESIZING", "CONFIGURING")),
        ("A_WORD_OF_A_LATER_VERSION", State.RUNNING),  # alive: nothing is concluded from it
        *((word, State.ENDED) for word in ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT")),
        *((word, State.ENDED) for word in ("NODE_FAIL", "PREEMPTED", "BOOT_FAIL", "DEADLINE")),
    ],
)
def test_each_word_of_squeue_has_its_state(fake: Fake, word: str, state: State) -> None:
    fake("squeue", f"77|{word}|None|{OURS}\n")
    assert _scheduler().states({"77": TOKEN})[Element("77")].state is state


def test_only_a_dependency_that_is_never_satisfied_is_hopeless(fake: Fake) -> None:
    fake(
        "squeue",
        f"77_0|PENDING|DependencyNeverSatisfied|{OURS}\n"
        f"77_1|PENDING|JobHeldAdmin|{OURS}\n"
        f"77_2|PENDING|Priority|{OURS}\n",
    )
    states = _scheduler().states({"77": TOKEN})
    assert [states[Element("77", i)].hopeless for i in range(3)] == ["which can never end", "", ""]
    assert [states[Element("77", i)].notable for i in range(3)][1:] == [True, False]


@pytest.mark.parametrize(
    ("row", "cause", "words"),
    [
        ("OUT_OF_MEMORY|0:125|c1|01:00:00|00:00:04|50M|", Cause.OUT_OF_MEMORY, "asked for 50M"),
        ("TIMEOUT|0:0|c1|00:01:00|00:01:12|50M|", Cause.TIME_LIMIT, "time limit of 00:01:00"),
        ("NODE_FAIL|0:0|c1|01:00:00|00:00:04|50M|", Cause.NODE_FAILURE, "node c1"),
        ("PREEMPTED|0:0|c1|01:00:00|00:00:04|50M|", Cause.PREEMPTED, "preempted"),
        ("CANCELLED by 1000|0:0|c1|01:00:00|00:00:04|50M|", Cause.CANCELLED, "by 1000"),
        ("FAILED|3:0|c1|01:00:00|00:00:04|50M|", Cause.EXIT, "exit code 3"),
        ("FAILED|0:9|c1|01:00:00|00:00:04|50M|", Cause.EXIT, "signal 9"),
        ("FAILED|0:11|c1|01:00:00|00:00:04|50M|", Cause.EXIT, "signal 11"),
        ("FAILED|0:53|c1|01:00:00|00:00:04|50M|", Cause.NEVER_STARTED, "log"),
        ("FAILED|127:0|c1|01:00:00|00:00:04|50M|", Cause.NEVER_STARTED, "python_executable"),
    ],
)
def test_the_cause_of_an_end_is_what_accounting_says(
    fake: Fake, row: str, cause: Cause, words: str
) -> None:
    fake("sacct", f"77_1|{row}|{OURS}\n")
    fake("scontrol", status=1)
    ended = {Element("77", 1): Report(State.ENDED, "FAILED")}
    (ending,) = _scheduler().explain(ended, {"77": TOKEN}).values()
    assert ending.cause is cause
    assert words in ending.message


def test_without_accounting_slurmctld_and_then_the_last_report_tell(fake: Fake) -> None:
    fake("sacct", stderr="Slurm accounting storage is disabled\n", status=1)
    fake(
        "scontrol",
        f"JobId=77 JobName=renamed JobState=TIMEOUT ExitCode=0:0 NodeList=c1 Command={OURS}\n",
    )
    ended = {Element("77"): Report(State.ENDED, "TIMEOUT")}
    assert _scheduler().explain(ended, {"77": TOKEN})[Element("77")].cause is Cause.TIME_LIMIT
    fake("scontrol", stderr="slurm_load_jobs error: Invalid job id specified\n", status=1)
    assert _scheduler().explain(ended, {"77": TOKEN})[Element("77")].cause is Cause.TIME_LIMIT


def test_a_job_whose_command_is_not_ours_explains_nothing(
    fake: Fake, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ids begin anew after slurmctld has lost its state."""
    monkeypatch.setattr("cluster_tools.schedulers.slurm.scheduler._ACCOUNTING_PATIENCE_S", 0.0)
    fake("sacct", "77|TIMEOUT|0:0|c1|00:01:00|00:01:12|50M||/cfut/run.ffffffff/ffffffff.0.0.0.sh\n")
    fake(
        "scontrol",
        "JobId=77 JobName=call JobState=TIMEOUT Command=/cfut/run.ffffffff/ffffffff.0.0.0.sh\n",
    )
    fake("squeue", "77|TIMEOUT|None|/cfut/run.ffffffff/ffffffff.0.0.0.sh\n")
    ending = _scheduler().explain({Element("77"): None}, {"77": TOKEN})[Element("77")]
    assert ending.cause is Cause.LOST


@pytest.mark.parametrize("command", ["(null)", "/tmp/a_copy.sh"])
def test_a_copy_of_our_script_is_ours_where_slurmctld_has_it(
    fake: Fake, tmp_path: Path, command: str
) -> None:
    """A site's wrapper may hand sbatch another file than it was given."""
    fake("squeue", f"77|RUNNING|None|{command}\n78|RUNNING|None|{command}\n")
    fake("sbatch", "77\n")
    scheduler = _scheduler()
    scheduler.submit(_request())
    fake("scontrol", (tmp_path / "sbatch.script").read_text())
    other = "0a1b2c3d.7.0.0"
    assert set(scheduler.states({"77": TOKEN, "78": other})) == {Element("77")}
    assert "'write', 'batch_script', '77'" in (tmp_path / "scontrol").read_text()
    asked = len((tmp_path / "scontrol").read_text().splitlines())
    assert set(scheduler.states({"77": TOKEN})) == {Element("77")}
    assert len((tmp_path / "scontrol").read_text().splitlines()) == asked


def test_accounting_without_command_lines_is_believed_on_what_was_reported(
    fake: Fake, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cluster_tools.schedulers.slurm.scheduler._ACCOUNTING_PATIENCE_S", 0.0)
    fake("sacct", "77|TIMEOUT|0:0|c1|00:01:00|00:01:12|50M||\n78|TIMEOUT|0:0|c1|1|1|50M||\n")
    fake("scontrol", status=1)
    ended = {Element("77"): Report(State.ENDED, "FAILED"), Element("78"): None}
    endings = _scheduler().explain(ended, {"77": TOKEN, "78": "0a1b2c3d.1.0.0"})
    assert [ending.cause for ending in endings.values()] == [Cause.TIME_LIMIT, Cause.LOST]


def test_limits_are_what_slurm_says_and_many_where_it_says_none(fake: Fake) -> None:
    fake("scontrol", "Configuration data as of ...\nMaxArraySize            = 1001\n")
    fake("sacctmgr", "\n")
    assert SlurmExecutor.get_max_array_size() == 1001
    assert SlurmExecutor.get_max_submit_jobs() > 1_000_000
    assert _scheduler().max_submitted() is None
    fake("sacctmgr", "6\n")
    assert SlurmExecutor.get_max_submit_jobs() == _scheduler().max_submitted() == 6


def test_the_width_is_the_least_limit_that_is_known(
    fake: Fake, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake("scontrol", status=1)
    fake("sacctmgr", status=1)
    unknown = _scheduler().width()
    fake("scontrol", "ClusterName = here\nMaxArraySize            = 12\n")
    fake("sacctmgr", "6\n")
    assert _scheduler().width() == 6 < unknown
    monkeypatch.setenv("SLURM_MAX_RUNNING_SIZE", "2")
    assert _scheduler().width() == 2
    assert _scheduler(dependency="singleton").width() == 1


@pytest.mark.parametrize("option", ["q", "-q", "qos", "--qos", "--qos=high"])
def test_the_limit_is_that_of_the_qos_however_it_is_given(
    fake: Fake, tmp_path: Path, option: str
) -> None:
    fake("sacctmgr", "6\n")
    fake("scontrol", "ClusterName = here\n")
    value = True if "=" in option else "high"
    assert _scheduler(**{option: value}).max_submitted() == 6
    assert "high" in _arguments(tmp_path, "sacctmgr")


def test_the_limit_is_that_of_the_account_and_the_partition(fake: Fake, tmp_path: Path) -> None:
    fake("sacctmgr", "debug|1\nlong|7\n|9\nlong|\n")
    fake("scontrol", "ClusterName = here\n")
    assert (
        max_submit_jobs_of_user(read_resources({"p": "long", "--account": "mine"}).destination) == 7
    )
    assert {"account=mine", "cluster=here"} <= set(_arguments(tmp_path, "sacctmgr"))
    assert max_submit_jobs_of_user(read_resources({}).destination) == 9


@pytest.mark.filterwarnings("ignore:cfut_dir")
@pytest.mark.parametrize("option", ["M", "-M", "clusters", "--clusters"])
def test_counts_and_limits_are_those_of_the_executors_cluster(
    fake: Fake, tmp_path: Path, option: str
) -> None:
    fake("squeue", "CLUSTER: far\n70_0\n70_1\n")
    fake("scontrol", "MaxArraySize = 11\n")
    fake("sacctmgr", "6\n")
    with SlurmExecutor(cfut_dir=tmp_path / "cfut", job_resources={option: "far"}) as executor:
        assert executor.get_number_of_submitted_jobs() == 2
        assert executor.get_pending_tasks() == {"70_0", "70_1"}
        assert "--clusters=far" in _arguments(tmp_path, "squeue")
        assert executor.get_max_array_size() == 11
        assert "--clusters=far" in _arguments(tmp_path, "scontrol")
        assert executor.get_max_submit_jobs() == 6
        assert "cluster=far" in _arguments(tmp_path, "sacctmgr")
    assert SlurmExecutor.get_number_of_submitted_jobs() == 2
    assert not any("far" in word for word in _arguments(tmp_path, "squeue"))
