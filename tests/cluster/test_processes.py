"""Promises on what executors do to the processes around them: forks, signals, exits and what they
leave.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap
import threading
from pathlib import Path
from typing import Any

import pytest

from support import jobs
from support.clusters import LOCAL, Cluster
from support.programs import Program, executor_program
from support.waiting import LIMIT_S, wait_until

# What it submits is not waited for by the script itself, but by the interpreter's exit.
_EXITING = """
    import cluster_tools

    class Pair:
        def __init__(self, left, right):
            self.left, self.right = left, right

    def swap(pair):
        assert isinstance(pair, Pair)
        return Pair(pair.right, pair.left)

    def done(future):
        result = future.result()
        print(type(result) is Pair, result.left, flush=True)

    if __name__ == "__main__":
        executor = cluster_tools.get_executor({environment!r}, **{keywords!r})
        for number in range(3):
            executor.submit(swap, Pair(number, "left")).add_done_callback(done)
        for future in executor.map_to_futures(swap, [Pair(3, "left")]):
            future.add_done_callback(done)
"""


def test_a_scripts_own_functions_and_classes_are_found_while_the_interpreter_exits(
    cluster: Cluster, tmp_path: Path
) -> None:
    keywords = {**cluster.keywords, "cfut_dir": str(tmp_path / "cfut")}
    text = textwrap.dedent(_EXITING).format(environment=cluster.environment, keywords=keywords)
    with Program(tmp_path / "exiting.py", text) as program:
        assert program.succeed() == "True left\n" * 4
    assert program.stderr == ""


def _has_ended(pid: str) -> bool:
    """Or is a zombie that only its parent keeps."""
    ps = subprocess.run(
        ["ps", "-o", "stat=", "-p", pid], stdout=subprocess.PIPE, text=True, check=False
    )
    return ps.stdout.strip() in ("", "Z")


def test_what_set_up_lines_leave_in_the_background_ends_with_the_job(tmp_path: Path) -> None:
    note = tmp_path / "background"
    lines = [f"sleep 600 & echo $! > '{note}'"]
    with LOCAL.new_executor(tmp_path / "cfut", additional_setup_lines=lines) as executor:
        assert executor.submit(jobs.square, 3).result(LIMIT_S) == 9
    wait_until(lambda: _has_ended(note.read_text().strip()), "the end of the background process")


def test_a_signal_to_a_forked_child_cancels_the_childs_own_jobs(tmp_path: Path) -> None:
    body = """
        with new_executor() as executor:
            executor.submit(jobs.square, 1).result()
            child = os.fork()
            if child == 0:
                own = new_executor(cfut_dir=str(directory / "of_child"))
                futures = start(own)
                wait_until(started)
                os.kill(os.getpid(), signal.SIGTERM)
                os._exit(0)
            print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
            print(executor.submit(jobs.square, 4).result())
    """
    with executor_program(LOCAL, tmp_path, body) as program:
        assert program.succeed() == f"{-signal.SIGTERM}\n16\n"
    wait_until(lambda: not LOCAL.elements_of(tmp_path), "the end of the child's job")


@pytest.mark.parametrize("lock", ["future._unwatched_lock", "executor._session._state_lock"])
def test_a_fork_in_the_middle_of_anything_leaves_the_child_able_to_go_on(
    tmp_path: Path, lock: str
) -> None:
    """Whatever lock another thread holds at that moment: nobody opens it in the child."""
    body = f"""
        from cluster_tools.cluster import future
        executor = new_executor()
        executor.submit(jobs.square, 1).result()
        held, forked = threading.Event(), threading.Event()
        def hold():
            with {lock}:
                held.set()
                forked.wait({LIMIT_S})
        holder = threading.Thread(target=hold)
        holder.start()
        held.wait({LIMIT_S})
        child = os.fork()
        if child == 0:
            signal.alarm(30)  # a child that hangs ends by this
            try:
                executor.submit(jobs.square, 2)
            except RuntimeError as error:
                print("forked" in str(error), flush=True)
            with new_executor() as own:
                print(own.submit(jobs.square, 3).result(), flush=True)
            os._exit(0)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        forked.set()
        holder.join()
        executor.shutdown()
    """
    with executor_program(LOCAL, tmp_path, body) as program:
        assert program.succeed() == "True\n9\n0\n"


def test_cancelling_leaves_no_zombie_and_no_warning_of_an_unwaited_process(
    cluster: Cluster, tmp_path: Path
) -> None:
    body = """
        import gc
        try:
            with new_executor() as executor:
                start(executor)
                wait_until(started)
                raise KeyError
        except KeyError:
            pass
        del executor
        gc.collect()
        def has_zombie():
            try:
                return os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
            except ChildProcessError:
                return False
        wait_until(lambda: not has_zombie())
        print("no zombie")
    """
    words = (sys.executable, "-u", "-W", "always::ResourceWarning")
    with executor_program(cluster, tmp_path, body, interpreter=words) as program:
        assert program.succeed() == "no zombie\n"
    assert program.stderr == ""


def test_a_program_with_many_open_files_gets_its_results(tmp_path: Path) -> None:
    """More than select() can take."""
    body = """
        import logging, resource
        logging.basicConfig(stream=sys.stdout)
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        files = [open(os.devnull) for _ in range(1100)]
        with new_executor() as executor:
            print(executor.submit(jobs.square, 3).result())
        executor = new_executor()
        start(executor)
        wait_until(started)
        os.kill(os.getpid(), signal.SIGTERM)
    """
    with executor_program(LOCAL, tmp_path, body) as program:
        assert program.exit_status() == -signal.SIGTERM
    assert program.stdout == "9\n"
    wait_until(lambda: not LOCAL.elements_of(tmp_path), "the end of its job")


def _threads() -> set[threading.Thread]:
    return {t for t in threading.enumerate() if t.name.startswith("cluster_tools")}


def test_no_watcher_is_left_when_shutdown_returns(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The next one reads from the same pipe, and would miss what an old one has taken."""
    for number in range(5):
        with LOCAL.new_executor(tmp_path) as executor:
            assert executor.submit(jobs.square, number).result(LIMIT_S) == number * number
        assert not [thread for thread in _threads() if thread.name == "cluster_tools-watcher"]
    assert caplog.records == []


def test_an_executor_that_cannot_be_made_leaves_no_thread(tmp_path: Path) -> None:
    before = _threads()
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"):
        LOCAL.new_executor(tmp_path / "file")
    wait_until(lambda: _threads() <= before, f"the end of {_threads() - before}")


def test_without_keep_logs_a_log_is_gone_before_its_executor_ends(
    cluster: Cluster, tmp_path: Path
) -> None:
    """A long life with many calls fills no directory."""
    with cluster.new_executor(tmp_path, keep_logs=False) as executor:
        futures: list[Any] = [
            executor.submit(jobs.say, "said"),
            *executor.map_to_futures(jobs.say, ["one", "two"]),
        ]
        for future in futures:
            future.result(LIMIT_S)
        wait_until(lambda: not list(tmp_path.glob("*.stdout")), "the end of the logs")
