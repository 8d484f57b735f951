"""Promises on the pilots' files: what is believed of a journal, and who gets a range of tasks."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster_tools.errors import RemoteException
from cluster_tools.format import pilots
from cluster_tools.format.measured import pack_measured, read_measured
from support import jobs
from support.clusters import LOCAL
from support.waiting import LIMIT_S, wait_until

_STARTED_NS = 1_700_000_000_000_000_000
_USED = (_STARTED_NS + 250_000_000, _STARTED_NS + 2_000_000_000, 1_500_000_000, 3 << 30)


def _journal() -> list[bytes]:
    """The records of a pilot that ran two tasks, as bytes."""
    parts: list[bytes] = []
    for task in (7, 8):
        parts.append(pilots.began_record(task, 100, _STARTED_NS))
        output = b"out%d" % task
        parts.append(pilots.ended_record(task, (100, 120), pilots.HERE, _USED, output))
    return parts


def test_a_journal_is_read_as_it_was_written() -> None:
    journal = b"".join(_journal())
    records, length = pilots.read_records(journal, final=False)
    assert length == len(journal)
    assert records == [
        pilots.Began(7, 100, _STARTED_NS),
        pilots.Ended(7, 100, 120, pilots.HERE, pack_measured(_USED), b"out7"),
        pilots.Began(8, 100, _STARTED_NS),
        pilots.Ended(8, 100, 120, pilots.HERE, pack_measured(_USED), b"out8"),
    ]


def test_a_journal_says_when_a_call_ran_and_what_it_used() -> None:
    (began, ended, *_), _ = pilots.read_records(b"".join(_journal()), final=False)
    assert isinstance(began, pilots.Began)
    assert began.started_at == 1_700_000_000.0
    assert isinstance(ended, pilots.Ended)
    measured = read_measured("c1", ended.numbers)
    assert (measured.started_at, measured.ended_at) == (1_700_000_000.25, 1_700_000_002.0)
    assert (measured.cpu_s, measured.peak_memory_bytes) == (1.5, 3 << 30)


def _cuts() -> Iterator[int]:
    return iter(range(len(b"".join(_journal()))))


@pytest.mark.parametrize("final", [False, True])
def test_a_journal_cut_anywhere_costs_the_record_that_is_cut(final: bool) -> None:
    parts = _journal()
    journal = b"".join(parts)
    whole, _ = pilots.read_records(journal, final=False)
    for cut in _cuts():
        records, length = pilots.read_records(journal[:cut], final=final)
        count = sum(len(b"".join(parts[: n + 1])) <= cut for n in range(len(parts)))
        assert records == whole[:count]
        # The rest is read when it is there.
        more, _ = pilots.read_records(journal[length:], final=False)
        assert records + more == whole


def test_a_damaged_record_costs_itself_alone_once_it_is_final() -> None:
    parts = _journal()
    whole, _ = pilots.read_records(b"".join(parts), final=False)
    damaged = bytearray(parts[1])
    damaged[-1] ^= 1
    journal = b"".join([*parts[:1], bytes(damaged), *parts[2:]])
    assert pilots.read_records(journal, final=False)[0] == whole[:1]
    assert pilots.read_records(journal, final=True)[0] == [*whole[:1], *whole[2:]]
    short = b"".join([*parts[:1], parts[1][:-3], *parts[2:]])
    assert pilots.read_records(short, final=True)[0] == [*whole[:1], *whole[2:]]


@pytest.mark.parametrize("name", ["stop", "1", "1.2", "1.2-3-4", "1.2-3.p", "x.1-2", "1.2-3-4-5.p"])
def test_other_names_are_no_ranges(name: str) -> None:
    assert pilots.read_range(name) is None


def test_ranges_have_names() -> None:
    tasks = pilots.Range(1, 2, 3, 4, "p")
    assert pilots.read_range(tasks.held_name()) == tasks
    assert pilots.read_range(tasks.todo_name()) == pilots.Range(1, 3, 3, 4)


_RACER = """\
import os, sys
from cluster_tools.format import pilots
from cluster_tools.job import pilot
directory, name = sys.argv[1:]
todo, held = (os.path.join(directory, part) for part in (pilots.TODO, pilots.HELD))
racer = pilot.Claimer(todo, held, name)
print("ready", flush=True)
sys.stdin.readline()
while True:
    tasks = racer.take() or racer.steal(0)
    if tasks is None:
        break
    while tasks.next < tasks.end:
        begun = racer.advance(tasks)
        if begun is None:
            break
        print(tasks.next, flush=True)
        tasks = begun
    else:
        racer.forget(tasks)
"""


def test_of_many_pilots_on_the_same_ranges_each_task_goes_to_one(tmp_path: Path) -> None:
    for part in (pilots.TODO, pilots.HELD):
        (tmp_path / part).mkdir()
    ranges = [pilots.Range(0, n, n, n + 40) for n in range(0, 400, 40)]
    for tasks in ranges:
        (tmp_path / pilots.TODO / tasks.todo_name()).touch()
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", _RACER, str(tmp_path), f"p{n}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for n in range(6)
    ]
    for racer in racers:
        assert racer.stdout is not None
        assert racer.stdout.readline() == "ready\n"
    for racer in racers:
        assert racer.stdin is not None
        racer.stdin.write("go\n")
        racer.stdin.flush()
    taken = Counter[int]()
    for racer in racers:
        stdout, _ = racer.communicate(timeout=LIMIT_S)
        assert racer.returncode == 0
        taken.update(map(int, stdout.split()))
    assert taken == Counter(range(400))
    assert not list((tmp_path / pilots.TODO).iterdir())


def test_a_result_that_was_lost_in_the_journal_is_said(tmp_path: Path) -> None:
    """By its next record at the latest, and nothing else is."""
    with LOCAL.new_executor(tmp_path, pilot_jobs=1) as executor:
        gate = tmp_path / "gate"
        lost = executor.submit(jobs.wait_for, gate)
        wait_until(lost.running, "the call")
        (journal,) = tmp_path.glob("run.*/pilots.journals/*")
        size = journal.stat().st_size
        with journal.open("ab") as file:  # its record will be behind this, and so not be one
            file.write(b"CTpilot1" + b"\xff" * 12)
        gate.touch()
        assert isinstance(lost.exception(LIMIT_S), (type(None), RemoteException))
        assert executor.submit(jobs.square, 3).result(LIMIT_S) == 9
        assert journal.stat().st_size > size
