"""Promises on settings and surroundings that can't work: a clear error, and nothing hangs."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from cluster_tools import RemoteException
from cluster_tools.errors import RemoteNeverStartedException, SubmissionException
from support import jobs, tiny_disk
from support.clusters import LOCAL, SLURM, Cluster, element_of, log_of
from support.waiting import LIMIT_S, wait_until

OTHER_USER = 12345
NewExecutor = Callable[..., Any]


def _other_python() -> str | None:
    """An interpreter of another version than this one's, that starts."""
    found = [shutil.which(f"python3.{minor}") for minor in range(8, 16)]
    found += [shutil.which("pypy3")]
    pyenv_root = os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv"
    found += map(str, Path(pyenv_root, "versions").glob("3.*/bin/python3"))
    ask = "import sys; print(sys.version_info[:2] >= (3, 8), sys.version_info[:2])"
    for interpreter in filter(None, found):
        answer = subprocess.run(
            [interpreter, "-c", ask], capture_output=True, text=True, check=False
        ).stdout.strip()
        if answer.startswith("True") and answer != f"True {sys.version_info[:2]}":
            return interpreter
    return None


def test_another_python_in_the_job_is_refused_by_name(
    cluster: Cluster, tmp_path: Path, new_executor: NewExecutor
) -> None:
    other = cluster.other_python or _other_python()
    if other is None:
        pytest.skip("there is no Python of another version on this machine")
    executor = new_executor(python_executable=other, **cluster.for_other_python)
    futures = executor.map_to_futures(jobs.square, [1, 2])
    for index, future in enumerate(futures):
        error = future.exception(LIMIT_S)
        assert isinstance(error, RemoteException)
        assert "the job runs Python" in str(error)
        assert f"the client Python {sys.version_info[0]}.{sys.version_info[1]}" in str(error)
        assert "python_executable" in str(error)
        assert f"Task {index} of 2 of square (job {element_of(future)})" in str(error)
        assert str(log_of(tmp_path, cluster, element_of(future))) in str(error)


def test_a_python_that_does_not_exist_is_named(
    cluster: Cluster, tmp_path: Path, new_executor: NewExecutor
) -> None:
    future = new_executor(python_executable="/nowhere/python").submit(jobs.square, 1)
    error = future.exception(LIMIT_S)
    assert isinstance(error, RemoteNeverStartedException)
    assert "/nowhere/python" in str(error)
    assert f"(job {element_of(future)})" in str(error)
    assert str(log_of(tmp_path, cluster, element_of(future))) in str(error)


def test_a_failing_set_up_line_is_the_cause(
    cluster: Cluster, tmp_path: Path, new_executor: NewExecutor
) -> None:
    lines = ["export BEFORE=1", "cat /nowhere/set-up", "touch never"]
    future = new_executor(additional_setup_lines=lines).submit(jobs.touch, tmp_path / "ran")
    error = future.exception(LIMIT_S)
    assert isinstance(error, RemoteNeverStartedException)
    assert "set-up line failed" in str(error)
    assert "cat /nowhere/set-up" in str(error)
    assert str(log_of(tmp_path, cluster, element_of(future))) in str(error)
    assert not (tmp_path / "ran").exists()


def test_a_cfut_dir_that_cannot_be_made_is_an_os_error_at_once(
    cluster: Cluster, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"):
        cluster.new_executor(tmp_path / "file" / "cfut")


def test_a_cfut_dir_that_cannot_be_written_is_an_os_error_at_once(cluster: Cluster) -> None:
    with pytest.raises(OSError, match="/proc"):  # not even root can
        cluster.new_executor(Path("/proc/cfut"))


def test_a_cfut_dir_that_has_gone_fails_its_calls(
    tmp_path: Path, new_executor: NewExecutor
) -> None:
    executor = new_executor()
    (run_directory,) = tmp_path.glob("run.*")
    shutil.rmtree(run_directory)
    for future in [executor.submit(jobs.square, 1), *executor.map_to_futures(jobs.square, [1])]:
        error = future.exception(LIMIT_S)
        assert isinstance(error, SubmissionException)
        assert "square" in str(error)
        assert str(run_directory) in str(error)


@pytest.fixture
def tiny_directory(cluster: Cluster, tmp_path: Path) -> Iterator[Path]:
    """A directory on a disk of 2 MB, which the jobs share."""
    if cluster is SLURM:
        with tiny_disk.directory_for(tmp_path) as directory:
            yield directory
        return
    directory = tmp_path / "tiny"
    directory.mkdir()
    try:
        subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(directory)],
            stderr=subprocess.PIPE,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no small disk can be mounted here: {error}")
    yield directory
    subprocess.run(["umount", "--lazy", str(directory)], check=True)


@pytest.mark.filterwarnings("ignore:cfut_dir .* seems to be on a disk")
def test_a_full_cfut_dir_fails_the_calls_that_find_it_full(
    cluster: Cluster, tiny_directory: Path
) -> None:
    with cluster.new_executor(tiny_directory) as executor:
        assert executor.submit(jobs.square, 2).result(LIMIT_S) == 4
        filler = tiny_disk.fill(tiny_directory)
        for future in [
            executor.submit(jobs.run, partial(len, b"x" * 100_000)),
            *executor.map_to_futures(jobs.run, [partial(len, b"x" * 100_000)] * 2),
        ]:
            error = future.exception(LIMIT_S)
            assert isinstance(error, RemoteException)
            assert "No space left on device" in str(error)
            assert "run" in str(error)
        filler.unlink()
        assert executor.submit(jobs.square, 3).result(LIMIT_S) == 9
    assert {path.suffix for path in tiny_directory.iterdir()} == {".stdout"}


@pytest.mark.filterwarnings("ignore:cfut_dir .* seems to be on a disk")
def test_a_result_that_the_disk_has_no_room_for_fails_its_task_alone(
    cluster: Cluster, tiny_directory: Path, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"  # while there is no room, the others had none either
    steps = [
        partial(jobs.return_bytes, 10),
        partial(jobs.return_bytes_after, gate, 4 << 20),
        partial(jobs.return_bytes, 20),
    ]
    with cluster.new_executor(tiny_directory) as executor:
        futures = executor.map_to_futures(jobs.run, steps)
        assert [len(future.result(LIMIT_S)) for future in (futures[0], futures[2])] == [10, 20]
        gate.touch()
        error = futures[1].exception(LIMIT_S)
        assert "No space left on device" in error.error  # type: ignore[union-attr]
        assert isinstance(error, RemoteException)
        assert f"Task 1 of 3 of run (job {element_of(futures[1])})" in error.error
    assert {path.suffix for path in tiny_directory.iterdir()} == {".stdout"}


def test_a_run_directory_of_another_user_is_not_unpickled(
    cluster: Cluster, tmp_path: Path, new_executor: NewExecutor
) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give a directory to another user")
    executor = new_executor()
    (run_directory,) = tmp_path.glob("run.*")
    os.chown(run_directory, OTHER_USER, OTHER_USER)
    future = executor.submit(jobs.touch, tmp_path / "ran")
    error = future.exception(LIMIT_S)
    assert isinstance(error, RemoteException)
    assert "belongs to another user" in str(error)
    assert f"(job {element_of(future)})" in str(error)
    assert not (tmp_path / "ran").exists()


def test_an_array_file_of_another_user_is_not_unpickled(
    cluster: Cluster, tmp_path: Path, new_executor: NewExecutor
) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give a file to another user")
    gate = tmp_path / "gate"
    executor = new_executor(additional_setup_lines=[f"until [ -e '{gate}' ]; do sleep 0.1; done"])
    future = executor.submit(jobs.touch, tmp_path / "ran")
    assert future.cluster_jobid
    (array_file,) = tmp_path.glob("run.*/array.*")
    os.chown(array_file, OTHER_USER, OTHER_USER)
    gate.touch()
    error = str(future.exception(LIMIT_S))  # one who can read it, or not
    assert "belongs to the user 12345" in error or "belongs to another user" in error
    assert not (tmp_path / "ran").exists()


@pytest.fixture
def unshared_directory() -> Iterator[Path]:
    """A directory that the nodes of dockered-slurm do not have."""
    with tempfile.TemporaryDirectory(dir="/tmp") as directory:
        yield Path(directory)


@pytest.mark.slurm
def test_a_working_directory_that_the_node_has_not_is_named_with_the_node(
    tmp_path: Path, unshared_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with SLURM.new_executor(tmp_path) as executor:
        with monkeypatch.context() as context:
            context.chdir(unshared_directory)
            future = executor.submit(jobs.square, 1)
        error = future.exception(LIMIT_S)
        assert isinstance(error, RemoteNeverStartedException)
        assert f"the working directory {unshared_directory} does not exist on node c" in str(error)
        assert f"(job {future.cluster_jobid})" in str(error)
        assert executor.submit(jobs.square, 2).result(LIMIT_S) == 4


@pytest.mark.slurm
def test_a_log_directory_that_the_node_has_not_is_said(unshared_directory: Path) -> None:
    with pytest.warns(UserWarning, match=f"{unshared_directory} seems to be on a disk"):
        unshared_executor = SLURM.new_executor(unshared_directory)
    with unshared_executor as executor:
        future = executor.submit(jobs.square, 1)
        error = future.exception(LIMIT_S)
    assert isinstance(error, RemoteNeverStartedException)
    # Newer versions start the job all the same, and its worker finds no run directory.
    assert "log could not be written" in str(error) or "has no run directory" in str(error)
    assert f"(job {future.cluster_jobid})" in str(error)


@pytest.mark.slurm
def test_no_sbatch_on_path_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with SLURM.new_executor(tmp_path) as executor:
        with monkeypatch.context() as context:
            context.setenv("PATH", "/nowhere")
            futures = [
                executor.submit(jobs.square, 1),
                *executor.map_to_futures(jobs.square, [1, 2]),
            ]
            for future in futures:
                error = future.exception(LIMIT_S)
                assert isinstance(error, SubmissionException)
                assert "no command sbatch on PATH" in str(error)
                assert "square" in str(error)
                with pytest.raises(SubmissionException):
                    _ = future.cluster_jobid
        assert executor.submit(jobs.square, 2).result(LIMIT_S) == 4


@pytest.mark.slurm
@pytest.mark.parametrize(
    ("resources", "words"),
    [
        ({"partition": "nowhere"}, "invalid partition specified: nowhere"),
        ({"mem": "9000G"}, "Memory specification can not be satisfied"),
        ({"gres": "gpu:1"}, "Invalid generic resource"),
        ({"no-such-option": 1}, "no-such-option"),
        ({"time": "soon"}, "(?i)time"),
        ({"account": "nobody"}, "Invalid account"),
    ],
)
def test_what_slurm_refuses_gets_its_words_and_the_command(
    tmp_path: Path, resources: dict[str, Any], words: str
) -> None:
    with SLURM.new_executor(tmp_path, job_resources=resources) as executor:
        for future in executor.map_to_futures(jobs.square, [1, 2]):
            with pytest.raises(SubmissionException, match=words) as raised:
                future.result(LIMIT_S)
            assert "Task" in str(raised.value)
            assert "of 2 of square" in str(raised.value)
            assert "sbatch --parsable" in str(raised.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slurm
@pytest.mark.parametrize(
    ("resources", "reason"),
    [({"c": 4000}, "PartitionConfig"), ({"nodes": 3}, "PartitionNodeLimit")],
)
def test_what_slurm_takes_but_cannot_run_is_said_and_given_up_after_the_limit(
    tmp_path: Path, resources: dict[str, Any], reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    with SLURM.new_executor(tmp_path, job_resources=resources, pending_timeout_s=4) as executor:
        future = executor.submit(jobs.square, 1)
        error = future.exception(LIMIT_S)
    if isinstance(error, SubmissionException):  # newer versions refuse it at once
        assert "sbatch says:" in str(error)
        return
    assert isinstance(error, RemoteNeverStartedException)
    assert reason in str(error)
    assert "pending_timeout_s = 4" in str(error)
    assert f"(job {future.cluster_jobid})" in str(error)
    warnings = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    assert len([w for w in warnings if reason in w and future.cluster_jobid in w]) == 1
    wait_until(lambda: not SLURM.elements_of(tmp_path), "the end of its job")


@pytest.mark.parametrize("name", ["two\nlines", "\n", "ends\n"])
def test_a_newline_in_the_job_name_is_refused(cluster: Cluster, tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="job_name"):
        cluster.new_executor(tmp_path, job_name=name)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slurm
@pytest.mark.parametrize(
    "resources", [{"mem": "1G\n--wrap=true"}, {"comment\n": "x"}, {"comment": "a\r\nb"}]
)
def test_a_newline_in_job_resources_is_refused(tmp_path: Path, resources: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="job_resources"):
        SLURM.new_executor(tmp_path, job_resources=resources)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slurm
@pytest.mark.parametrize(
    "option",
    [
        "array",
        "a",
        "output",
        "o",
        "error",
        "e",
        "wait",
        "W",
        "wrap",
        "parsable",
        "chdir",
        "D",
        "open-mode",
        "open_mode",
        "--array",
    ],
)
def test_an_option_that_the_executor_owns_is_refused_by_name(tmp_path: Path, option: str) -> None:
    with pytest.raises(ValueError, match=f"'{option}'"):
        SLURM.new_executor(tmp_path, job_resources={option: "x"})


@pytest.mark.parametrize("seconds", [0, -1, 0.5, float("nan")])
def test_a_client_timeout_that_nobody_can_keep_is_refused(
    cluster: Cluster, tmp_path: Path, seconds: float
) -> None:
    with pytest.raises(ValueError, match="client_timeout_s"):
        cluster.new_executor(tmp_path, client_timeout_s=seconds)


def test_both_ways_to_set_up_logging_are_refused(cluster: Cluster, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"logging_config.*logging_setup_fn"):
        cluster.new_executor(tmp_path, logging_config={}, logging_setup_fn=print)


def test_nothing_of_what_failed_is_left_in_the_queue(
    cluster: Cluster, tmp_path_factory: pytest.TempPathFactory
) -> None:
    root = tmp_path_factory.getbasetemp()
    wait_until(lambda: not cluster.elements_of(root), "the end of all jobs")


def test_a_working_directory_that_was_removed_fails_the_calls(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = tmp_path_factory.mktemp("gone")
    with LOCAL.new_executor(tmp_path) as executor:
        with monkeypatch.context() as context:
            context.chdir(gone)
            gone.rmdir()
            futures = [
                executor.submit(jobs.square, 1),
                *executor.map_to_futures(jobs.square, [1, 2]),
            ]
            for future in futures:
                assert isinstance(future.exception(LIMIT_S), SubmissionException)
        assert executor.submit(jobs.square, 2).result(LIMIT_S) == 4
