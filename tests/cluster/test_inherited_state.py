"""Promises on what a program was started with or has set: ignored signals, closed streams, narrow
encodings.
"""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from support.clusters import LOCAL
from support.programs import executor_program
from support.waiting import wait_until

_CALLS = """
    from support import signal_calls
    from cluster_tools import RemoteException
    def tell(executor):
        print(executor.submit(jobs.square, 3).result())
        print(executor.submit(signal_calls.disposition).result())
        error = executor.submit(jobs.exit_at_once, 3).exception()
        print(isinstance(error, RemoteException), "exit code 3" in str(error))
        error = executor.submit(jobs.kill_itself).exception()
        print(
            isinstance(error, RemoteException),
            "signal 9" in str(error) or "exit code 137" in str(error),  # as a shell says it
        )
        print(list(executor.map(jobs.square, range(3))))
"""
_TOLD = "9\n[True, True]\nTrue True\nTrue True\n[0, 1, 4]\n"

_STATES = {
    "SIGCHLD ignored": "signal.signal(signal.SIGCHLD, signal.SIG_IGN)",
    "SIGCHLD waited for": """
        def wait_for_all(signum, frame):
            try:
                while os.waitpid(-1, os.WNOHANG)[0]:
                    pass
            except ChildProcessError:
                pass
        signal.signal(signal.SIGCHLD, wait_for_all)
    """,
    "interrupts ignored": """
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGQUIT, signal.SIG_IGN)
    """,
    "signals blocked": "signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())",
}
_WAYS: list[dict[str, Any]] = [{}, {"additional_setup_lines": ["sleep 600 &"]}, {"pilot_jobs": 2}]


def _body(*parts: str) -> str:
    import textwrap

    return "\n".join(textwrap.dedent(part) for part in parts)


@pytest.mark.parametrize("way", _WAYS, ids=["alone", "beside a shell", "on pilots"])
@pytest.mark.parametrize("state", list(_STATES))
def test_ends_of_jobs_and_of_what_they_start_are_told_right(
    tmp_path: Path, state: str, way: dict[str, Any]
) -> None:
    use = f"with new_executor(**{way!r}) as executor:\n    tell(executor)\n"
    body = _body(_STATES[state], _CALLS, use)
    with executor_program(LOCAL, tmp_path, body) as program:
        assert program.succeed() == _TOLD


@pytest.mark.parametrize("state", list(_STATES))
def test_jobs_are_cancelled_all_the_same(tmp_path: Path, state: str) -> None:
    use = """
        try:
            with new_executor() as executor:
                future = executor.submit(
                    jobs.clean_up_when_interrupted, directory / "started", directory / "cleaned"
                )
                wait_until(started)
                raise KeyError
        except KeyError:
            print(future.cancelled())
    """
    with executor_program(LOCAL, tmp_path, _body(_STATES[state], use)) as program:
        assert program.succeed() == "True\n"
    wait_until((tmp_path / "cleaned").exists, "finally")
    wait_until(lambda: not LOCAL.elements_of(tmp_path), "the end of its jobs")


_CLOSED = """
    out = os.dup(1)
    {close}
    with new_executor(**{way!r}) as executor:
        future = executor.submit(jobs.say, "said")
        result = executor.forward_log(future)
        failure = executor.submit(jobs.reciprocal, 0).exception()
    os.write(out, f"{{result}} {{isinstance(failure, ZeroDivisionError)}}".encode())
"""
_CLOSING = {
    "closed": "os.closerange(0, 3)",
    "streams closed": "sys.stdin.close(); sys.stdout.close(); sys.stderr.close()",
    "none": "os.closerange(0, 3); sys.stdin = sys.stdout = sys.stderr = None",
}


@pytest.mark.parametrize("way", [{}, {"pilot_jobs": 1}], ids=["alone", "on pilots"])
@pytest.mark.parametrize("close", list(_CLOSING))
def test_a_program_needs_no_standard_streams(
    tmp_path: Path, close: str, way: dict[str, Any]
) -> None:
    body = _CLOSED.format(close=_CLOSING[close], way=way)
    with executor_program(LOCAL, tmp_path, body) as program:
        assert program.exit_status() == 0
        assert program.stdout == "said True"


def test_a_program_may_be_started_without_standard_streams(tmp_path: Path) -> None:
    body = """
        with new_executor() as executor:
            result = executor.forward_log(executor.submit(jobs.say, "said"))
        (directory / "told").write_text(f"{sys.stdout} {result}")
    """
    words = ["/bin/sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", sys.executable]
    with executor_program(LOCAL, tmp_path, body, interpreter=words) as program:
        assert program.exit_status() == 0
    assert (tmp_path / "told").read_text() == "None said"


@pytest.mark.parametrize(
    "variables", [{"PYTHONIOENCODING": "ascii"}, {"PYTHONCOERCECLOCALE": "0"}], ids=str
)
@pytest.mark.parametrize("way", [{}, {"pilot_jobs": 1}], ids=["alone", "on pilots"])
def test_a_character_that_an_encoding_lacks_fails_no_call_and_hides_no_failure(
    tmp_path: Path, way: dict[str, Any], variables: dict[str, str]
) -> None:
    body = f"""
        with new_executor(**{way!r}) as executor:
            print(ascii(executor.forward_log(executor.submit(jobs.say, "gr\\xfc\\xdfe"))))
            print(ascii(str(executor.submit(jobs.raise_text, "gr\\xfc\\xdfe").exception())))
    """
    environment = {"LC_ALL": "C", "PYTHONUTF8": "0", **variables}
    with executor_program(LOCAL, tmp_path, body, environment=environment) as program:
        lines = program.succeed().splitlines()
    assert lines[0].endswith("gr\\xfc\\xdfe")
    assert lines[1:] == [r"'gr\xfc\xdfe'"] * 2


def test_ctrl_c_while_a_log_is_forwarded_is_a_keyboard_interrupt(tmp_path: Path) -> None:
    for queued in (False, True):
        directory = tmp_path / str(queued)
        directory.mkdir()
        body = f"""
            executor = new_executor(**({{"pilot_jobs": 1}} if {queued} else {{}}))
            future = start(executor)[0]
            if {queued}:  # it has no job yet
                future = executor.submit(jobs.square, 2)
            wait_until(started)
            print("ready")
            try:
                executor.forward_log(future)
            except BaseException as error:
                print(type(error).__name__)
        """
        with executor_program(LOCAL, directory, body) as program:
            program.wait_for("ready")
            program.send(signal.SIGINT)
            assert program.succeed() == "ready\nKeyboardInterrupt\n"


def test_pilots_come_where_the_working_directory_was_removed(tmp_path: Path) -> None:
    body = """
        (directory / "gone").mkdir()
        os.chdir(directory / "gone")
        with new_executor(pilot_jobs=1, pilot_idle_timeout_s=0) as executor:
            future = executor.submit(jobs.wait_for, directory / "gate")
            wait_until(future.running)
            os.rmdir(directory / "gone")
            (directory / "gate").touch()
            print(future.result())
            print("was removed" in str(executor.submit(jobs.square, 2).exception()))
    """
    with executor_program(LOCAL, tmp_path, body) as program:
        assert program.succeed() == "gate\nTrue\n"
