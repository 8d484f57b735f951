"""Promises on signals to a program: its jobs are cancelled, and it ends as it would have without
us.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import pytest

from support.clusters import LOCAL, Cluster
from support.programs import executor_program
from support.waiting import wait_until

# Waits until its calls run, says so and waits for ever.
_RUN_AND_WAIT = """
    executor = new_executor()
    futures = start(executor, 3)
    wait_until(lambda: started() == 3)
    print("ready")
    futures[0].result()
"""


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_cancels_running_jobs_and_ends_the_program_as_ever(
    cluster: Cluster, tmp_path: Path, signum: signal.Signals
) -> None:
    with executor_program(cluster, tmp_path, _RUN_AND_WAIT) as program:
        program.wait_for("ready")
        assert cluster.elements_of(tmp_path)
        program.send(signum)
        assert program.exit_status() == -signum
    assert ("KeyboardInterrupt" in program.stderr) is (signum == signal.SIGINT)
    wait_until(lambda: not cluster.elements_of(tmp_path), "the end of its jobs")


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("waiting", ["futures[0].result()", "pass"], ids=["result", "leaving-with"])
def test_signals_in_a_row_leave_no_job(
    cluster: Cluster, tmp_path: Path, waiting: str, signum: signal.Signals
) -> None:
    """Each may come while the one before it is being seen to, or the program ends."""
    body = f"""
        with new_executor() as executor:
            futures = start(executor, 2)
            wait_until(lambda: started() == 2)
            print("ready")
            {waiting}
    """
    with executor_program(cluster, tmp_path, body) as program:
        program.wait_for("ready")
        while program.process.poll() is None:
            program.send(signum)
            time.sleep(0.03)
    wait_until(lambda: not cluster.elements_of(tmp_path), "the end of its jobs")


def test_each_of_two_signals_does_what_it_would_have_done(tmp_path: Path) -> None:
    """The second comes while the first waits until the jobs are being cancelled."""
    body = """
        def stop(*arguments):
            print("stopping")
            time.sleep(1)
            really_stop(*arguments)

        signal.signal(signal.SIGTERM, lambda signum, frame: print("saved"))
        executor = new_executor()
        futures = start(executor, 1)
        really_stop, executor._session.scheduler.stop = executor._session.scheduler.stop, stop
        wait_until(started)
        print("ready")
        futures[0].result()
    """
    with executor_program(LOCAL, tmp_path, body) as program:
        program.wait_for("ready")
        program.send(signal.SIGINT)
        program.wait_for("stopping")
        program.send(signal.SIGTERM)
        program.send(signal.SIGINT)
        assert program.exit_status() == -signal.SIGINT
    assert program.stdout.split() == ["ready", "stopping", "saved"]
    assert "KeyboardInterrupt" in program.stderr
    wait_until(lambda: not LOCAL.elements_of(tmp_path), "the end of its jobs")


def test_a_signal_cancels_queued_jobs(cluster: Cluster, tmp_path: Path) -> None:
    body = f"""
        executor = new_executor(**{cluster.narrow!r})
        futures = start(executor, {cluster.narrow_width + 2})
        wait_until(lambda: started() == {cluster.narrow_width})
        print("ready")
        futures[0].result()
    """
    with executor_program(cluster, tmp_path, body) as program:
        program.wait_for("ready")
        program.send(signal.SIGTERM)
        assert program.exit_status() == -signal.SIGTERM
    wait_until(lambda: not cluster.elements_of(tmp_path), "the end of its jobs")
    assert len(list(tmp_path.glob("started*"))) == cluster.narrow_width


@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes a namespace of processes")
def test_the_first_process_of_a_container_cancels_its_jobs_before_it_ends(
    cluster: Cluster, tmp_path: Path
) -> None:
    """With its end all processes of the namespace are killed: its helpers, too."""
    words = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc", sys.executable, "-u"]
    with executor_program(cluster, tmp_path, _RUN_AND_WAIT, interpreter=words) as program:
        program.wait_for("ready")
        outside = program.process.pid
        (child,) = Path(f"/proc/{outside}/task/{outside}/children").read_text().split()
        os.kill(int(child), signal.SIGTERM)
        assert program.exit_status() == 128 + signal.SIGTERM
    wait_until(lambda: not cluster.elements_of(tmp_path), "the end of its jobs")


def test_finally_of_a_call_runs_after_a_signal(cluster: Cluster, tmp_path: Path) -> None:
    body = """
        executor = new_executor()
        future = executor.submit(
            jobs.clean_up_when_interrupted, directory / "started", directory / "cleaned"
        )
        wait_until(started)
        print("ready")
        future.result()
    """
    with executor_program(cluster, tmp_path, body) as program:
        program.wait_for("ready")
        program.send(signal.SIGINT)
        assert program.exit_status() == -signal.SIGINT
    wait_until((tmp_path / "cleaned").exists, "finally")


def test_a_call_that_ignores_signals_is_killed(cluster: Cluster, tmp_path: Path) -> None:
    body = """
        executor = new_executor()
        future = executor.submit(jobs.ignore_interrupts_and_wait, directory / "started")
        wait_until(started)
        print("ready")
        future.result()
    """
    environment = {"SIGTERM_WAIT_IN_S": "1"}
    with executor_program(cluster, tmp_path, body, environment=environment) as program:
        program.wait_for("ready")
        program.send(signal.SIGINT)
        assert program.exit_status() == -signal.SIGINT
    wait_until(lambda: not cluster.elements_of(tmp_path), "the end of its jobs")


def test_an_unhandled_exception_cancels_the_jobs(cluster: Cluster, tmp_path: Path) -> None:
    body = """
        executor = new_executor()
        start(executor, 3)
        wait_until(started)
        raise ZeroDivisionError
    """
    with executor_program(cluster, tmp_path, body) as program:
        assert program.exit_status() == 1
    assert "ZeroDivisionError" in program.stderr
    wait_until(lambda: not cluster.elements_of(tmp_path), "the end of its jobs")


def test_leaving_with_by_an_exception_cancels_the_jobs(cluster: Cluster, tmp_path: Path) -> None:
    body = """
        try:
            with new_executor() as executor:
                futures = start(executor, 3)
                wait_until(started)
                raise ZeroDivisionError
        except ZeroDivisionError:
            print([future.cancelled() for future in futures])
    """
    with executor_program(cluster, tmp_path, body) as program:
        assert program.succeed() == "[True, True, True]\n"
    wait_until(lambda: not cluster.elements_of(tmp_path), "the end of its jobs")


def test_the_end_of_the_program_waits_for_what_was_submitted(
    cluster: Cluster, tmp_path: Path
) -> None:
    body = """
        executor = new_executor()
        start(executor, 3, jobs.touch)
        print("submitted")
    """
    with executor_program(cluster, tmp_path, body) as program:
        assert program.succeed() == "submitted\n"
    assert len(list(tmp_path.glob("started*"))) == 3
    assert {path.suffix for path in (tmp_path / "cfut").iterdir()} == {".stdout"}


def test_sys_exit_waits_for_what_was_submitted(tmp_path: Path) -> None:
    body = """
        start(new_executor(), 1, jobs.touch)
        sys.exit(4)
    """
    with executor_program(LOCAL, tmp_path, body) as program:
        assert program.exit_status() == 4
    assert (tmp_path / "started0").exists()


def test_an_executor_in_a_thread_ends_with_a_signal_where_the_main_thread_has_seen_to_it(
    cluster: Cluster, tmp_path: Path
) -> None:
    body = """
        cluster_tools.ClusterExecutor.install_signal_handlers()
        thread = threading.Thread(target=lambda: start(new_executor(), 2)[0].result())
        thread.start()
        wait_until(lambda: started() == 2)
        print("ready")
        thread.join()
    """
    with executor_program(cluster, tmp_path, body) as program:
        program.wait_for("ready")
        program.send(signal.SIGTERM)
        assert program.exit_status() == -signal.SIGTERM
    wait_until(lambda: not cluster.elements_of(tmp_path), "the end of its jobs")


def test_a_second_ctrl_c_does_not_wait_for_the_first(tmp_path: Path) -> None:
    with executor_program(LOCAL, tmp_path, _RUN_AND_WAIT) as program:
        program.wait_for("ready")
        program.send(signal.SIGINT)
        program.send(signal.SIGINT)
        assert program.exit_status() in (-signal.SIGINT, 1)
    wait_until(lambda: not LOCAL.elements_of(tmp_path), "the end of its jobs")


def test_a_handler_that_was_there_before_is_called_after_the_jobs_are_cancelled(
    tmp_path: Path,
) -> None:
    body = """
        def leave(signum, frame):
            print("cancelled", [future.cancelled() for future in futures], flush=True)
            os._exit(5)
        signal.signal(signal.SIGTERM, leave)
        futures = start(new_executor(), 2)
        wait_until(lambda: started() == 2)
        print("ready")
        signal.pause()
    """
    with executor_program(LOCAL, tmp_path, body) as program:
        program.wait_for("ready")
        program.send(signal.SIGTERM)
        assert program.exit_status() == 5
    assert "cancelled [True, True]" in program.stdout
    wait_until(lambda: not LOCAL.elements_of(tmp_path), "the end of its jobs")


def test_a_handler_that_was_installed_later_is_chained_by_the_next_executor(
    tmp_path: Path,
) -> None:
    body = """
        with new_executor() as executor:
            executor.submit(jobs.square, 1)
        signal.signal(signal.SIGTERM, lambda signum, frame: sys.exit(6))
        future = start(new_executor())[0]
        wait_until(started)
        print("ready")
        future.exception()
        print("cancelled")
        signal.pause()
    """
    with executor_program(LOCAL, tmp_path, body) as program:
        program.wait_for("ready")
        program.send(signal.SIGTERM)
        assert program.exit_status() == 6
    wait_until(lambda: not LOCAL.elements_of(tmp_path), "the end of its jobs")


def test_sighup_that_is_ignored_at_the_start_stays_ignored(tmp_path: Path) -> None:
    body = """
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        with new_executor() as executor:
            gate = directory / "gate"
            future = executor.submit(jobs.touch_and_wait, (directory / "started", gate))
            wait_until(started)
            os.kill(os.getpid(), signal.SIGHUP)
            gate.touch()
            print(future.result())
    """
    with executor_program(LOCAL, tmp_path, body) as program:
        assert program.succeed() == "started\n"


def test_a_program_may_survive_a_signal_and_make_another_executor(tmp_path: Path) -> None:
    body = """
        with new_executor() as executor:
            future = start(executor)[0]
            wait_until(started)
            try:
                os.kill(os.getpid(), signal.SIGINT)
                future.result()
            except KeyboardInterrupt:
                print("interrupted")
            print(future.cancelled())
        with new_executor() as executor:
            print(executor.submit(jobs.square, 3).result())
    """
    with executor_program(LOCAL, tmp_path, body) as program:
        assert program.succeed() == "interrupted\nTrue\n9\n"


def test_signals_while_futures_resolve_hold_up_nothing(tmp_path: Path) -> None:
    """The handler, in the main thread, asks futures at any moment of their being resolved."""
    body = """
        futures, seen = [], []
        def ask(signum, frame):
            seen.append([future.done() for future in futures])
            for future in futures[-3:]:
                future.add_done_callback(seen.append)
        signal.signal(signal.SIGALRM, ask)
        with new_executor() as executor:
            signal.setitimer(signal.ITIMER_REAL, 0.003, 0.003)
            for number in range(20):
                futures.append(executor.submit(jobs.square, number))
            futures += executor.map_to_futures(jobs.square, range(20))
            print(sum(future.result() for future in futures))
            signal.setitimer(signal.ITIMER_REAL, 0)
        assert len(seen) > 10
    """
    with executor_program(LOCAL, tmp_path, body) as program:
        assert program.succeed() == f"{2 * sum(n * n for n in range(20))}\n"


def test_signals_while_executors_are_made_and_ended_hold_up_nothing(tmp_path: Path) -> None:
    """A program that outlives SIGTERM gets it again and again; no future stays open."""
    body = """
        count = []
        signal.signal(signal.SIGTERM, lambda signum, frame: count.append(signum))
        stop = threading.Event()
        def send():
            while not stop.wait(0.02):
                os.kill(os.getpid(), signal.SIGTERM)
        sender = threading.Thread(target=send)
        sender.start()
        for _ in range(15):
            futures = []
            try:
                with new_executor() as executor:
                    futures = executor.map_to_futures(jobs.square, range(5))
                    futures.append(executor.submit(jobs.square, 2))
                    for future in futures:
                        future.exception()
            except (RuntimeError, cluster_tools.RemoteException) as error:
                assert "after shutdown" in str(error), error
            except BaseException as error:
                assert "Cancelled" in type(error).__name__, error
            assert all(future.done() for future in futures)
        stop.set()
        sender.join()
        assert len(count) > 15
        print("ended")
    """
    with executor_program(LOCAL, tmp_path, body) as program:
        assert program.succeed() == "ended\n"
    wait_until(lambda: not LOCAL.elements_of(tmp_path), "the end of its jobs")
