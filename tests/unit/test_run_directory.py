"""Promises on the files that an executor and its jobs share."""

from __future__ import annotations

import os
import pickle
import threading
from pathlib import Path

import pytest

from cluster_tools import pickling
from cluster_tools.cluster import run_directory
from cluster_tools.cluster.run_directory import OutputCutShort, RunDirectory
from cluster_tools.errors import remote_exception
from cluster_tools.format import FORMAT, outputs, run_files
from cluster_tools.format.measured import read_measured
from cluster_tools.own_files import NotOurs
from cluster_tools.packed_exceptions import failure_bytes

MANY = 100_000
_USED = (1_700_000_000_250_000_000, 1_700_000_002_000_000_000, 1_500_000_000, 3 << 30)


@pytest.fixture
def directory(tmp_path: Path) -> RunDirectory:
    return RunDirectory(str(tmp_path / "made" / "cfut"))


def _write_output(
    directory: RunDirectory, task: int, data: bytes, node: str = "c1", record: bytes | None = None
) -> Path:
    """As the worker does."""
    shard = Path(directory.shard(task))
    shard.mkdir(exist_ok=True)
    packed = outputs.encode_record(node, _USED, 2, None) if record is None else record
    path = shard / run_files.output_name(task)
    footer = outputs.encode_footer(len(data), len(packed))
    path.write_bytes(data + packed + footer)
    return path


def test_it_is_private_and_its_own(directory: RunDirectory, tmp_path: Path) -> None:
    other = RunDirectory(str(tmp_path / "made" / "cfut"))
    assert other.path != directory.path
    assert other.token != directory.token
    assert os.stat(directory.path).st_mode & 0o777 == 0o700


def test_an_array_is_one_file_however_many_tasks(directory: RunDirectory) -> None:
    writer = directory.begin_array()
    for number in range(MANY):
        writer.add(b"the function", [b"%d" % number], None)
    assert writer.finish({}) == 0
    assert os.listdir(directory.path) == ["array.0"]
    # Some numbers a task; the function is there once.
    assert os.path.getsize(writer.path) < MANY * 60
    assert os.stat(writer.path).st_mode & 0o777 == 0o600


def test_arrays_number_their_tasks_one_after_the_other(directory: RunDirectory) -> None:
    writers = [directory.begin_array() for _ in range(3)]
    for count, writer in enumerate(writers, start=1):
        for _ in range(count):
            writer.add(b"f", [b"c"], None)
    assert [writer.finish({}) for writer in writers] == [0, 1, 3]


def test_threads_may_take_numbers_at_the_same_time(directory: RunDirectory) -> None:
    taken: list[int] = []

    def take() -> None:
        for _ in range(500):
            taken.append(directory.take_tasks(2))

    threads = [threading.Thread(target=take) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(taken) == list(range(0, 4000, 2))


def test_an_array_that_is_given_up_leaves_nothing(directory: RunDirectory) -> None:
    writer = directory.begin_array()
    writer.add(b"f", [b"c"], None)
    writer.discard()
    assert os.listdir(directory.path) == []


def test_a_shard_has_at_most_a_thousand_tasks(directory: RunDirectory) -> None:
    shards = {directory.shard(task) for task in range(3_000)}
    assert len(shards) == 3
    assert all(os.path.dirname(shard) == directory.path for shard in shards)


def test_an_output_is_read_with_its_record(directory: RunDirectory) -> None:
    _write_output(directory, 5, pickle.dumps((True, [1])), node="c1")
    outcome = directory.outcome(5, run_files.output_name(5))
    assert (outcome.success, outcome.value) == (True, [1])
    assert (outcome.record["node"], outcome.record["attempt"]) == ("c1", 2)
    measured = read_measured("c1", outcome.record["measured"])
    assert (measured.node, measured.started_at, measured.ended_at) == (
        "c1",
        1_700_000_000.25,
        1_700_000_002.0,
    )
    assert (measured.cpu_s, measured.peak_memory_bytes) == (1.5, 3 << 30)


@pytest.mark.parametrize("stored", [None, outputs.digest(b"kept")])
def test_a_record_cut_anywhere_in_its_numbers_is_no_record(stored: bytes | None) -> None:
    record = outputs.encode_record("nœud-\udcff", _USED, 1, stored)
    decoded = outputs.decode_record(record)
    assert (decoded.stored, decoded.attempt) == (stored, 1)
    assert decoded.node == "nœud-\udcff"
    for cut in range(len(record) - len("nœud-x".encode())):
        with pytest.raises(ValueError, match="record"):
            outputs.decode_record(record[:cut])


def test_an_output_with_a_damaged_record_is_not_taken(directory: RunDirectory) -> None:
    damaged = outputs.encode_record("c1", _USED, 1, None)[:40] + bytes(range(8))
    _write_output(directory, 5, pickle.dumps((True, [1])), record=damaged)
    with pytest.raises(OutputCutShort, match="damaged"):
        directory.outcome(5, run_files.output_name(5))


def test_a_failure_is_read_with_its_exception(directory: RunDirectory) -> None:
    data = failure_bytes(ValueError(1), kept=True)
    _write_output(directory, 5, data)
    outcome = directory.outcome(5, run_files.output_name(5))
    assert not outcome.success
    assert outcome.value == "ValueError: 1\n"
    exception = remote_exception(outcome.exception, outcome.value, "12", "Task 5 of 6")
    assert isinstance(exception, ValueError)
    assert exception.args == (1,)


def test_an_exception_that_does_not_load_leaves_the_text(directory: RunDirectory) -> None:
    data = pickle.dumps((False, "text")) + b"\x80\x05cno_such_module\nX\n."
    _write_output(directory, 5, data)
    outcome = directory.outcome(5, run_files.output_name(5))
    assert (outcome.value, outcome.exception) == ("text", None)


@pytest.mark.parametrize("kept", [0, 1, 20, -1, -30])
def test_an_output_that_is_cut_short_is_none(directory: RunDirectory, kept: int) -> None:
    path = _write_output(directory, 5, pickle.dumps((True, "x" * 50)))
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(OutputCutShort):
        directory.outcome(5, run_files.output_name(5))


def test_an_output_with_something_lost_in_the_middle_is_none(directory: RunDirectory) -> None:
    path = _write_output(directory, 5, pickle.dumps((True, "x" * 50)))
    whole = path.read_bytes()
    path.write_bytes(whole[:20] + whole[30:])
    with pytest.raises(OutputCutShort):
        directory.outcome(5, run_files.output_name(5))


def test_no_link_in_the_place_of_an_output_is_written_through(
    directory: RunDirectory, tmp_path: Path
) -> None:
    """Whoever may write to `cfut_dir` can put another run directory there, with a link in it."""
    path = _write_output(directory, 0, pickle.dumps((True, 1)))
    path.unlink()
    ours = tmp_path / "ours"
    ours.write_text("precious")
    path.symlink_to(ours)
    with pytest.raises(NotOurs):
        directory.delete_outcome(0, path.name, leave_mark=True)
    assert ours.read_text() == "precious"


def test_nothing_is_removed_through_a_link(directory: RunDirectory, tmp_path: Path) -> None:
    ours = tmp_path / "ours"
    ours.mkdir()
    (ours / run_files.output_name(0)).touch()
    Path(directory.shard(0)).symlink_to(ours)
    with pytest.raises(OSError, match="0"):
        directory.clear({0}, leave_marks=False)
    with pytest.raises(OSError, match="0"):
        directory.delete_outcome(0, run_files.output_name(0), leave_mark=False)
    assert os.listdir(ours) == [run_files.output_name(0)]


def test_claims_are_in_the_order_of_submissions_and_restarts(directory: RunDirectory) -> None:
    shard = Path(directory.shard(7))
    assert directory.claims(7) == []
    shard.mkdir()
    for submission, restart in [(1, 0), (0, 10), (0, 2), (0, 0)]:
        name = run_files.claim_name(7, submission, restart)
        (shard / name).write_text(f"job{submission}.{restart}\nnode\n")
    (shard / run_files.claim_name(70, 0, 0)).write_text("another task's\n")
    assert directory.claims(7) == ["job0.0", "job0.2", "job0.10", "job1.0"]


def test_outputs_are_looked_for_by_name(directory: RunDirectory) -> None:
    _write_output(directory, 3, b"")
    assert directory.look_again([3, 4, 5_000]) == ({3: [run_files.output_name(3)]}, {})
    assert os.listdir(directory.shard(3)) == [run_files.output_name(3)]  # no probe is left


def test_it_goes_away_with_all_that_is_in_it(directory: RunDirectory, tmp_path: Path) -> None:
    _write_output(directory, 3, b"")
    directory.revoke(1_500)
    directory.remove()
    assert os.listdir(tmp_path / "made" / "cfut") == []
    directory.remove()


def test_the_manifest_says_what_a_job_has_to_know(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend("relative")
    manifest = run_directory.manifest(str(tmp_path), ({"level": 10}, None), None)
    assert manifest["format"] == FORMAT
    assert os.fsencode(tmp_path / "relative") in manifest["sys_path"]
    assert pickling.loads(manifest["logging"]) == ({"level": 10}, None)
    pickle.dumps(manifest)
