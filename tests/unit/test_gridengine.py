"""Promises on Grid Engine's commands: what is read of them, what they are given, and what it means
where they fail.

The samples were printed by Son of Grid Engine 8.1.9. Commands are fakes on PATH.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from cluster_tools.schedulers.base import (
    ArrayRequest,
    Cause,
    Element,
    Options,
    Refused,
    RefusedForCount,
    RefusedForSize,
    SchedulerError,
    State,
    Uncertain,
    Unreachable,
)
from cluster_tools.schedulers.endings import forgotten
from cluster_tools.schedulers.gridengine import (
    GridEngineScheduler,
    accounted,
    queue_rows,
    read_resources,
)
from cluster_tools.schedulers.queueing import has_token
from cluster_tools.schedulers.resources import seconds
from support.waiting import wait_until

TOKEN = "0a1b2c3d.0.0.0"
NAME = f"call.{TOKEN}"
Fake = Callable[..., None]

_DOWN = """\
error: commlib error: got select error (Connection refused)
Unable to run job: unable to send message to qmaster using port 6444 on host "vm": got send error
Exiting.
"""
_HUNG = """\
Unable to run job: unable to send message to qmaster using port 6444 on host "vm": got send error
Exiting.
"""
_TOO_MANY_TASKS = """\
Unable to run job: job rejected: you tried to submit a job with more than 75000 tasks
Exiting.
"""
_TOO_MANY_JOBS = """\
Unable to run job: job rejected: only 3 jobs are allowed per user (current job count: 3)
Exiting.
"""
_NO_QUEUE = """\
Unable to run job: Job was rejected because job requests unknown queue "nowhere"
Exiting.
"""


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fake:
    """Puts a command on PATH that prints a text and notes its arguments and the script that it is
    given.
    """
    directory = tmp_path / "bin"
    directory.mkdir()
    monkeypatch.setenv("PATH", str(directory))
    monkeypatch.chdir(tmp_path)  # the run directory

    def install(name: str, stdout: str = "", stderr: str = "", status: int = 0) -> None:
        program = directory / name
        program.write_text(
            f"#!{sys.executable}\n"
            "import sys\n"
            f"open({str(tmp_path / name)!r}, 'w').write(repr(sys.argv[1:]))\n"
            f"if {name == 'qsub'}:\n"
            f"    open({str(tmp_path / 'job')!r}, 'w').write(open(sys.argv[-1]).read())\n"
            f"sys.stdout.write({stdout!r}); sys.stderr.write({stderr!r}); sys.exit({status})\n"
        )
        program.chmod(0o755)

    return install


def _scheduler(**resources: Any) -> GridEngineScheduler:
    return GridEngineScheduler(Options(job_resources=resources, log_directory="/logs/a b"))


def _request(count: int = 3, *, name: str = "call", **further: Any) -> ArrayRequest:
    return ArrayRequest(
        name, TOKEN, count, count > 1, ["python", "worker.py"], "/somewhere", os.getcwd(), **further
    )


def _arguments(tmp_path: Path, name: str) -> list[str]:
    return eval((tmp_path / name).read_text())


def _value(arguments: list[str], option: str) -> str:
    return arguments[arguments.index(option) + 1]


# -- job_resources --


@pytest.mark.parametrize(
    ("resources", "words"),
    [
        ({"h_vmem": "4G", "h_rt": 3600}, "-l h_vmem=4G -l h_rt=3600"),
        ({"q": "all.q", "pe": "smp 4"}, "-q all.q -pe smp 4"),
        ({"P": "vision", "p": -100, "hold_jid": "7,8"}, "-P vision -p -100 -hold_jid 7,8"),
        ({"-q": "all.q", "R": True, "h": True}, "-q all.q -R y -h"),
        ({"exclusive": True, "gpu": 1}, "-l exclusive=TRUE -l gpu=1"),
        ({"q": None, "gpu": False}, ""),
        ({"l": "h=node1"}, "-l h=node1"),
    ],
)
def test_options_go_by_their_names_and_all_else_is_a_resource(
    resources: dict[str, Any], words: str
) -> None:
    assert read_resources(resources) == words.split()


@pytest.mark.parametrize(
    "option",
    [*"toejNSbCrVvi@", "tc", "cwd", "wd", "now", "sync", "terse", "notify", "clear", "-t"],
)
def test_an_option_that_the_executor_owns_is_refused_by_name(option: str) -> None:
    with pytest.raises(ValueError, match=f"'{option}' is the option -.* belongs to the executor"):
        _scheduler(**{option: "x"})


@pytest.mark.parametrize(
    "resources", [{"w": "v"}, {"w": "p"}, {"q": "a\nb"}, {"q\n": "a"}, {"": 1}]
)
def test_what_makes_no_job_or_is_not_one_line_is_refused(resources: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="job_resources"):
        _scheduler(**resources)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("3600", 3600),
        (90, 90),
        ("1:00:00", 3600),
        ("0:1:30", 90),
        (":2:", 120),
        ("INFINITY", None),
        ("soon", None),
        (None, None),
        ("0:0:0", None),
    ],
)
def test_a_time_limit_is_read(text: object, expected: float | None) -> None:
    assert seconds(text) == expected


# -- submission --


def test_qsub_is_given_the_array_and_a_script_without_secrets(
    fake: Fake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake("qsub", "Welcome!\n77.1-3:1\n")
    monkeypatch.setenv("PASSWORD", "it's\nsecret")
    monkeypatch.setenv("JOB_ID", "of the surrounding job")
    assert _scheduler(h_vmem="1G").submit(_request(at_a_time=2)) == "77"
    arguments = _arguments(tmp_path, "qsub")
    assert "-terse" in arguments
    assert _value(arguments, "-t") == "1-3"
    assert _value(arguments, "-tc") == "2"
    assert _value(arguments, "-N") == NAME
    assert arguments[-1] == str(tmp_path / f"{TOKEN}.job")
    assert not os.path.exists(arguments[-1])  # qsub has read it
    assert _value(arguments, "-r") == "n"
    assert "-notify" in arguments
    assert _value(arguments, "-l") == "h_vmem=1G"
    script = tmp_path / f"{TOKEN}.sh"
    for_everybody = (tmp_path / "job").read_text()
    assert "secret" not in for_everybody
    assert str(script) in for_everybody
    assert (script.stat().st_mode & 0o777) == 0o600
    assert "export PASSWORD='it'\"'\"'s\nsecret'\n" in script.read_text()
    assert "of the surrounding job" not in script.read_text()
    assert "exec python worker.py" in script.read_text()


@pytest.mark.parametrize(("count", "shown"), [(3, "1 77_1"), (1, "0 77")])
def test_an_element_is_told_its_index_its_job_and_its_log(
    fake: Fake, tmp_path: Path, count: int, shown: str
) -> None:
    fake("qsub", "77\n")
    _scheduler().submit(_request(count))
    script = (tmp_path / f"{TOKEN}.sh").read_text()
    names = "".join(line for line in script.splitlines(True) if line.startswith("cluster_tools_"))
    arguments = script[script.index("exec python worker.py ") :].removeprefix("exec python ")
    ended = subprocess.run(
        ["/bin/sh", "-c", f"{names}echo {arguments}"],
        env={"JOB_ID": "77", "SGE_TASK_ID": "2", "RESTARTED": "1"},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    index, job = shown.split()
    assert ended.stdout == f"worker.py {index} 1 {job} /logs/a b/sge.{job}.log.stdout\n"


def test_a_single_call_is_no_array(fake: Fake, tmp_path: Path) -> None:
    fake("qsub", "77\n")
    assert _scheduler().submit(_request(1)) == "77"
    assert "-t" not in _arguments(tmp_path, "qsub")


@pytest.mark.parametrize(
    ("name", "start"),
    [
        ("a/b:c@d*e?f\\g", "a_b_c_d_e_f_g."),
        ("1st", "_1st."),
        ("<lambda>", "_lambda_."),
        ("Größe", "Gr__e."),
        ("none", "none."),
        ("x" * 1000, "x" * 200 + "."),
    ],
)
def test_a_name_becomes_one_that_qsub_takes(
    fake: Fake, tmp_path: Path, name: str, start: str
) -> None:
    fake("qsub", "77\n")
    _scheduler().submit(_request(1, name=name))
    assert _value(_arguments(tmp_path, "qsub"), "-N") == f"{start}{TOKEN}"


@pytest.mark.parametrize(
    ("stderr", "status", "error"),
    [
        (_DOWN, 1, Unreachable),
        (_HUNG, 1, Uncertain),
        (_TOO_MANY_TASKS, 1, RefusedForSize),
        (_TOO_MANY_JOBS, 25, RefusedForCount),
        (_NO_QUEUE, 1, Refused),
        ("", 0, Uncertain),  # no job id
    ],
)
def test_each_refusal_has_its_meaning(
    fake: Fake, stderr: str, status: int, error: type[SchedulerError]
) -> None:
    fake("qsub", stderr=stderr, status=status)
    with pytest.raises(SchedulerError) as raised:
        _scheduler().submit(_request())
    assert type(raised.value) is error
    if error is Refused:
        assert 'unknown queue "nowhere"' in str(raised.value)
        assert "The command was: qsub -terse" in str(raised.value)


def test_no_qsub_on_path_is_said(fake: Fake) -> None:
    with pytest.raises(Refused, match="no command qsub on PATH"):
        _scheduler().submit(_request())


def test_a_qsub_that_hangs_is_ended_and_leaves_it_uncertain(
    tmp_path: Path, fake: Fake, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake("qsub")
    (tmp_path / "bin" / "qsub").write_text("#!/bin/sh\nexec /bin/sleep 60\n")
    monkeypatch.setattr(GridEngineScheduler, "submit_timeout_s", 0.2)
    with pytest.raises(Uncertain, match="did not answer within"):
        _scheduler().submit(_request())


# -- the queue --

_QUEUE = f"""\
<?xml version='1.0'?>
<job_info  xmlns:xsd="http://arc.liv.ac.uk/repos/darcs/sge/source/dist/util/resources/schemas/qstat/qstat.xsd">
  <queue_info>
    <job_list state="running">
      <JB_job_number>5</JB_job_number>
      <JAT_prio>0.50000</JAT_prio>
      <JB_name>{NAME}</JB_name>
      <JB_owner>root</JB_owner>
      <state>r</state>
      <JAT_start_time>2026-11-28T02:40:14</JAT_start_time>
      <queue_name>all.q@vm</queue_name>
      <slots>1</slots>
      <tasks>2</tasks>
    </job_list>
  </queue_info>
  <job_info>
    <job_list state="pending">
      <JB_job_number>5</JB_job_number>
      <JAT_prio>0.00000</JAT_prio>
      <JB_name>{NAME}</JB_name>
      <JB_owner>root</JB_owner>
      <state>qw</state>
      <JB_submission_time>2026-11-28T02:40:14</JB_submission_time>
      <queue_name></queue_name>
      <slots>1</slots>
      <tasks>4-8:2,11</tasks>
    </job_list>
    <job_list state="pending">
      <JB_job_number>6</JB_job_number>
      <JAT_prio>0.00000</JAT_prio>
      <JB_name>somebodys%lt;&gt;</JB_name>
      <JB_owner>root</JB_owner>
      <state>hqw</state>
      <JB_submission_time>2026-11-28T02:40:14</JB_submission_time>
      <queue_name></queue_name>
      <slots>1</slots>
    </job_list>
  </job_info>
</job_info>
"""


def test_rows_of_the_queue_are_read() -> None:
    rows = queue_rows(_QUEUE)
    assert [(row.job_id, row.state) for row in rows] == [("5", "r"), ("5", "qw"), ("6", "hqw")]
    assert [list(row.elements()) for row in rows] == [
        [Element("5", 1)],
        [Element("5", 3), Element("5", 5), Element("5", 7), Element("5", 10)],
        [Element("6")],
    ]


@pytest.mark.parametrize("text", ["", "error: denied", "<job_info>"])
def test_what_is_no_list_of_jobs_is_no_answer(text: str) -> None:
    with pytest.raises(Unreachable):
        queue_rows(text)


def test_states_are_of_elements_whose_job_has_the_token(fake: Fake) -> None:
    fake("qstat", _QUEUE)
    fake("qacct", stderr="error: job id 6 not found\n", status=1)
    states = _scheduler().states({"5": TOKEN, "6": "11223344.0.0.0"})
    assert {element.index: report.state for element, report in states.items()} == {
        1: State.RUNNING,
        3: State.PENDING,
        5: State.PENDING,
        7: State.PENDING,
        10: State.PENDING,
    }
    assert {element.job_id for element in states} == {"5"}


@pytest.mark.parametrize(
    ("word", "state"),
    [("qw", State.PENDING), ("hqw", State.PENDING), ("Eqw", State.PENDING), ("Rq", State.PENDING)]
    + [(word, State.RUNNING) for word in ("r", "t", "s", "S", "T", "dr", "dt", "Rr", "hr")],
)
def test_each_state_is_waiting_or_running(fake: Fake, word: str, state: State) -> None:
    fake("qstat", _QUEUE.replace("<state>r<", f"<state>{word}<"))
    report = _scheduler().states({"5": TOKEN})[Element("5", 1)]
    assert (report.state, report.word) == (state, word)
    assert bool(report.hopeless) is ("E" in word)
    assert report.notable is (word == "hqw")


def test_what_is_gone_and_not_accounted_has_no_state(fake: Fake) -> None:
    fake("qstat", "<job_info/>")
    fake("qacct", stderr="error: job id 5 not found\n", status=1)
    assert _scheduler().states({"5": TOKEN}) == {}


def test_a_master_that_is_down_is_no_answer(fake: Fake) -> None:
    fake("qstat", stderr=_DOWN, status=1)
    with pytest.raises(Unreachable):
        _scheduler().states({"5": TOKEN})
    with pytest.raises(Unreachable):
        _scheduler().find(TOKEN)


def test_a_job_is_found_by_its_token(fake: Fake) -> None:
    fake("qstat", _QUEUE)
    assert _scheduler().find(TOKEN) == "5"
    assert _scheduler().find("0a1b2c3d.0.0.1") is None
    assert has_token(NAME, "0a1b2c3d")  # the executor's
    assert not has_token(NAME, "1b2c3d.0.0.0")


# -- limits --


@pytest.mark.parametrize(("value", "limit"), [("75000", 75000), ("0", None)])
def test_the_largest_array_is_asked_for(fake: Fake, value: str, limit: int | None) -> None:
    fake(
        "qconf",
        f"#global:\nmax_aj_instances             2000\nmax_aj_tasks                 {value}\n",
    )
    assert _scheduler().max_array_size() == limit


# -- how elements ended --

_RECORD = {
    "qname": "all.q",
    "hostname": "vm",
    "jobname": NAME,
    "jobnumber": "5",
    "taskid": "2",
    "qsub_time": "Sat Nov 28 02:40:14 2026",
    "failed": "0",
    "exit_status": "0",
    "ru_wallclock": "3s",
    "ru_minflt": "1628",
    "maxvmem": "10.645MB",
    "category": "NONE",
}


def _record(**changed: str) -> str:
    """As `qacct -j` prints it."""
    fields = {**_RECORD, **changed}
    lines = [f"{name:12} {value:20}" for name, value in fields.items()]
    return "\n".join(["=" * 62, *lines, ""])


def test_records_are_read_in_their_order() -> None:
    text = _record(failed="25  : rescheduling", exit_status="99") + _record(taskid="undefined")
    first, second = accounted("5", text)
    assert (first.word, first.element) == ("25  : rescheduling", Element("5", 1))
    assert first.fields["exit_status"] == "99"
    assert (second.element, second.name) == (Element("5"), NAME)


_BY_LIMIT = "37  : qmaster enforced h_rt, h_cpu, or h_vmem limit"


@pytest.mark.parametrize(
    ("changed", "cause", "words"),
    [
        ({"exit_status": "3"}, Cause.EXIT, "exit code 3 on node vm"),
        ({"exit_status": "137                  (Killed)"}, Cause.EXIT, "killed (signal 9)"),
        ({"exit_status": "139                  (Segmentation fault)"}, Cause.EXIT, "signal 11"),
        ({"exit_status": "127"}, Cause.NEVER_STARTED, "no such Python"),
        ({"exit_status": "73"}, Cause.NEVER_STARTED, "log could not be written"),
        ({"exit_status": "78"}, Cause.EXIT, "no run directory"),
        (
            {"failed": "100 : assumedly after job", "exit_status": "137"},
            Cause.CANCELLED,
            "deleted",
        ),
        ({"ru_minflt": "0"}, Cause.CANCELLED, "by force"),
        ({"failed": "19  : before writing exit_status"}, Cause.NODE_FAILURE, "node failed"),
        ({"failed": "21  : in recognizing job"}, Cause.NODE_FAILURE, "node failed"),
        ({"failed": "8   : in prolog"}, Cause.NEVER_STARTED, "in prolog"),
        (
            {"failed": _BY_LIMIT, "category": "-l h_rt=3", "ru_wallclock": "4s"},
            Cause.TIME_LIMIT,
            "limit of h_rt=3",
        ),
        (
            {"failed": _BY_LIMIT, "category": "-l h_rt=3600,h_vmem=300M -pe smp 1"},
            Cause.OUT_OF_MEMORY,
            "asked for h_vmem=300M, used 10.645MB",
        ),
        (
            {"failed": _BY_LIMIT, "category": "-l h_rt=3,h_vmem=300M", "ru_wallclock": "64s"},
            Cause.TIME_LIMIT,
            "h_rt=3",
        ),
        ({"failed": _BY_LIMIT}, Cause.TIME_LIMIT, "its queue"),
    ],
)
def test_each_record_has_its_cause(changed: Mapping[str, str], cause: Cause, words: str) -> None:
    (record,) = accounted("5", _record(**changed))
    why = _scheduler().ending(record)
    assert why.cause is cause
    assert words in why.message
    assert "qacct -j 5 -t 2" in why.advice


def test_without_a_record_an_element_is_lost_and_nothing_is_claimed() -> None:
    why = forgotten(Element("5"), "Grid Engine", "qacct")
    assert why.cause is Cause.LOST
    assert "does not know job 5 any more" in why.message


def test_the_last_record_of_the_job_with_our_name_counts(fake: Fake) -> None:
    """Ids begin again, and accounting keeps the records of earlier jobs."""
    fake("qstat", "<job_info/>")
    fake(
        "qacct",
        _record(jobname="earlier", exit_status="5")
        + _record(failed="25  : rescheduling", exit_status="99")
        + _record(exit_status="3")
        + _record(taskid="3", jobname="later", exit_status="6"),
    )
    scheduler, element = _scheduler(), Element("5", 1)
    states = scheduler.states({"5": TOKEN})
    assert {e: report.state for e, report in states.items()} == {element: State.ENDED}
    endings = scheduler.explain({element: None}, {"5": TOKEN})
    assert endings[element].exit_code == 3


def test_elements_without_a_record_are_waited_for_and_then_lost(
    fake: Fake, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(GridEngineScheduler, "accounting_patience_s", 0.0)
    monkeypatch.setattr("cluster_tools.schedulers.queueing._ACCOUNTING_INTERVAL_S", 0.0)
    fake("qacct", _record())
    endings = _scheduler().explain({Element("5", 1): None, Element("5", 2): None}, {"5": TOKEN})
    assert [endings[Element("5", index)].cause for index in (1, 2)] == [Cause.EXIT, Cause.LOST]


# -- cancelling --


def test_a_helper_deletes_elements_of_our_jobs(fake: Fake, tmp_path: Path) -> None:
    fake("qstat", _QUEUE)
    fake("qdel")
    elements = [Element("5", index) for index in (1, 3, 4)]
    _scheduler().cancel([*elements, Element("6")], "0a1b2c3d")
    wait_until((tmp_path / "qdel").exists, "qdel")
    wait_until(lambda: (tmp_path / "qdel").read_text().endswith("]"), "its arguments")
    assert _arguments(tmp_path, "qdel") == ["5.2-2", "5.4-5"]
