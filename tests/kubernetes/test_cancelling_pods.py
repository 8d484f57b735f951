"""Promises on how calls are cancelled on Kubernetes, and on what is left: no Job, no pod, no file
but logs.
"""

from __future__ import annotations

import dataclasses
import itertools
import os
import select
import signal
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml

from support import jobs, kube
from support.clusters import KUBERNETES, Cluster
from support.programs import executor_program
from support.waiting import LIMIT_S, wait_until

pytestmark = [pytest.mark.kubernetes, pytest.mark.usefixtures("nothing_is_left")]

NewExecutor = Callable[..., Any]

_NARROW = {key: kube.NARROW_RESOURCES[key] for key in ("labels", "pod_template")}
_LEASE_S = 8
_WEEK_S = 7 * 24 * 3600


def _pods_in(directory: Path) -> list[str]:
    """Their pods, also those that have ended."""
    return [
        pod.metadata.name
        for pod in kube.admin().pods()
        if str(directory) in str(pod.spec.containers[0].command)
    ]


def _wait_for_the_end_of_all(directory: Path) -> None:
    wait_until(lambda: not kube.jobs_in(directory), "the end of the Jobs")
    wait_until(lambda: not _pods_in(directory), "the end of the pods")


def _files_besides_logs(directory: Path) -> list[str]:
    logs = set(directory.glob(f"{KUBERNETES.log_prefix}.*.log.stdout"))
    return sorted(path.name for path in set(directory.iterdir()) - logs)


# -- executors -------------------------------------------------------------------------------------


def test_leaving_with_leaves_nothing_but_logs(new_executor: NewExecutor, tmp_path: Path) -> None:
    with new_executor() as executor:
        array = executor.map_to_futures(jobs.square, [1, 2, 3])
        failing = executor.submit(jobs.say_and_fail, "word")
        exiting = executor.submit(jobs.os_exit)
    assert [future.result() for future in array] == [1, 4, 9]
    assert failing.exception() is not None
    assert exiting.exception() is not None
    assert _files_besides_logs(tmp_path) == []
    assert len(list(tmp_path.iterdir())) == 5
    _wait_for_the_end_of_all(tmp_path)


def test_an_exception_out_of_with_ends_running_calls_and_leaves_nothing(
    new_executor: NewExecutor, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    marks = tmp_path_factory.mktemp("marks")
    call = (jobs.clean_up_when_interrupted, marks / "started", marks / "cleaned")
    futures: list[Any] = []
    with pytest.raises(ZeroDivisionError), new_executor() as executor:
        futures.append(executor.submit(*call))
        wait_until((marks / "started").exists, "the call")
        raise ZeroDivisionError
    _assert_cancelled(futures[0])
    _wait_for_the_end_of_all(tmp_path)
    assert (marks / "cleaned").exists()
    assert _files_besides_logs(tmp_path) == []


def _assert_cancelled(future: Any) -> None:
    with pytest.raises(CancelledError):
        future.result(LIMIT_S)


def test_an_exception_out_of_with_deletes_what_waits(
    new_executor: NewExecutor, tmp_path: Path
) -> None:
    futures: list[Any] = []
    with pytest.raises(ZeroDivisionError), new_executor(_NARROW) as executor:
        futures += executor.map_to_futures(jobs.wait_long, [tmp_path / "one", tmp_path / "other"])
        wait_until(lambda: len(_pods_in(tmp_path)) == 2, "the pods")
        raise ZeroDivisionError
    for future in futures:
        _assert_cancelled(future)
    _wait_for_the_end_of_all(tmp_path)


def test_shutdown_with_cancel_futures_ends_what_has_not_begun_and_waits_for_the_rest(
    new_executor: NewExecutor, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    marks = tmp_path_factory.mktemp("marks")
    executor = new_executor(_NARROW)
    futures = executor.map_to_futures(
        jobs.touch_and_wait, [(marks / f"started{i}", marks / "gate") for i in range(3)]
    )
    wait_until(lambda: list(marks.glob("started*")), "one of them")
    wait_until(lambda: any(future.running() for future in futures), "that this is known")
    executor.shutdown(wait=False, cancel_futures=True)
    (marks / "gate").touch()
    executor.shutdown()
    (begun,) = [path.name for path in marks.glob("started*")]
    assert [future.cancelled() for future in futures] == [f"started{i}" != begun for i in range(3)]
    (running,) = [future for future in futures if not future.cancelled()]
    assert running.result() == begun
    assert _files_besides_logs(tmp_path) == []
    _wait_for_the_end_of_all(tmp_path)


# -- futures ---------------------------------------------------------------------------------------


def _set_suspended(job: str, suspended: bool) -> None:
    kube.admin().batch.patch_namespaced_job(job, kube.NAMESPACE, {"spec": {"suspend": suspended}})


def test_a_cancelled_call_does_not_run_when_its_pod_begins_later(
    new_executor: NewExecutor, tmp_path: Path
) -> None:
    executor = new_executor({"node_selector": {"cluster-tools-tests/open": "yes"}})
    gate = tmp_path / "gate"
    futures = executor.map_to_futures(
        jobs.touch_and_wait, [(tmp_path / f"started{i}", gate) for i in range(3)]
    )
    job = futures[0].cluster_jobid
    wait_until(lambda: len(_pods_in(tmp_path)) == 3, "the pods")
    _set_suspended(job, True)
    wait_until(lambda: not _pods_in(tmp_path), "the end of its pods")
    assert futures[1].cancel()
    with kube.label_of_a_node("cluster-tools-tests/open"):
        _set_suspended(job, False)
        wait_until(lambda: len(list(tmp_path.glob("started*"))) == 2, "the others")
        wait_until(lambda: _has_ended(job, 1), "the end of the cancelled one's pod")
    gate.touch()
    assert [futures[0].result(LIMIT_S), futures[2].result(LIMIT_S)] == ["started0", "started2"]
    assert not (tmp_path / "started1").exists()


def _has_ended(job: str, index: int) -> bool:
    status = kube.admin().batch.read_namespaced_job(job, kube.NAMESPACE).status
    return str(index) in (status.completed_indexes, status.failed_indexes)


def test_cancelling_one_of_an_array_takes_its_pod_away_and_no_other(
    new_executor: NewExecutor, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    futures = new_executor(_NARROW).map_to_futures(
        jobs.touch_and_wait, [(tmp_path / f"started{i}", gate) for i in range(3)]
    )
    wait_until(lambda: len(_pods_in(tmp_path)) == 3, "the pods")
    wait_until(lambda: list(tmp_path.glob("started*")), "one of them")
    cancelled, other = [f for i, f in enumerate(futures) if not (tmp_path / f"started{i}").exists()]
    assert cancelled.cancel()
    wait_until(lambda: not kube.admin().pods_of(cancelled), "the end of its pod")
    assert len(kube.admin().pods_of(other)) == 1
    assert not other.done()
    gate.touch()
    (running,) = [future for future in futures if future not in (cancelled, other)]
    assert running.result(LIMIT_S)


def test_a_job_whose_calls_are_all_cancelled_is_deleted(
    new_executor: NewExecutor, tmp_path: Path
) -> None:
    executor = new_executor({"node_selector": {"kubernetes.io/hostname": "nowhere"}})
    future = executor.submit(jobs.square, 1)
    array = executor.map_to_futures(jobs.square, [1, 2])
    wait_until(lambda: len(_pods_in(tmp_path)) == 3, "the pods")
    assert all(f.cancel() for f in [future, *array])
    _wait_for_the_end_of_all(tmp_path)


# -- programs --------------------------------------------------------------------------------------

_CLEAN_UP = """
    executor = new_executor()
    future = executor.submit(
        jobs.clean_up_when_interrupted, directory / "started", directory / "cleaned"
    )
    wait_until(started)
    print("ready")
"""


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_deletes_a_programs_jobs_and_lets_calls_clean_up(
    tmp_path: Path, signum: signal.Signals
) -> None:
    body = f"{_CLEAN_UP}    future.result()\n"
    with executor_program(KUBERNETES, tmp_path, body) as program:
        program.wait_for("ready")
        assert len(kube.jobs_in(tmp_path)) == 1
        program.send(signum)
        assert program.exit_status() == -signum
    _wait_for_the_end_of_all(tmp_path)
    assert (tmp_path / "cleaned").exists()


def test_an_unhandled_exception_deletes_a_programs_jobs_and_lets_calls_clean_up(
    tmp_path: Path,
) -> None:
    body = f"{_CLEAN_UP}    raise ZeroDivisionError\n"
    with executor_program(KUBERNETES, tmp_path, body) as program:
        assert program.exit_status() == 1
    assert "ZeroDivisionError" in program.stderr
    _wait_for_the_end_of_all(tmp_path)
    assert (tmp_path / "cleaned").exists()


def test_a_program_that_ends_waits_for_its_calls_and_leaves_nothing_but_logs(
    tmp_path: Path,
) -> None:
    body = """
        executor = new_executor()
        future = executor.submit(jobs.touch, directory / "ran")
    """
    with executor_program(KUBERNETES, tmp_path, body) as program:
        program.succeed()
    assert (tmp_path / "ran").exists()
    assert _files_besides_logs(tmp_path / "cfut") == []
    _wait_for_the_end_of_all(tmp_path)


# -- leases ----------------------------------------------------------------------------------------


@pytest.fixture
def short_lease(tmp_path: Path) -> Iterator[Cluster]:
    """Kubernetes, with a short lease; what a dead client has left goes afterwards."""
    resources = {**kube.RESOURCES, "client_lease_s": _LEASE_S}
    yield dataclasses.replace(KUBERNETES, keywords={"job_resources": resources})
    for job in kube.jobs_in(tmp_path):
        kube.admin().batch.delete_namespaced_job(
            job.metadata.name, kube.NAMESPACE, propagation_policy="Background"
        )


def test_jobs_of_a_killed_client_end_within_its_lease(short_lease: Cluster, tmp_path: Path) -> None:
    body = """
        executor = new_executor()
        futures = start(executor, 2)
        wait_until(lambda: started() == 2)
        print("ready")
        futures[0].result()
    """
    with executor_program(short_lease, tmp_path, body) as program:
        program.wait_for("ready")
        program.send(signal.SIGKILL)
        assert program.exit_status() == -signal.SIGKILL
        killed_at = time.monotonic()
        wait_until(lambda: not KUBERNETES.elements_of(tmp_path), "the end of its pods")
        # Pods have a time to end in besides, and controllers are no clocks.
        assert time.monotonic() - killed_at < _LEASE_S + 8
    wait_until(lambda: _failures(tmp_path), "the Job's end")
    assert _failures(tmp_path) == ["DeadlineExceeded"]
    (job,) = kube.jobs_in(tmp_path)
    assert job.spec.ttl_seconds_after_finished == _WEEK_S


def _failures(directory: Path) -> list[str]:
    conditions: list[Any] = [job.status.conditions or [] for job in kube.jobs_in(directory)]
    return [
        condition.reason
        for condition in itertools.chain.from_iterable(conditions)
        if condition.type == "Failed" and condition.status == "True"
    ]


def test_a_lease_is_renewed_while_the_client_lives(
    new_executor: NewExecutor, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    future = new_executor({"client_lease_s": 6}).submit(
        jobs.note_run_and_wait, tmp_path / "runs", gate
    )
    began = time.monotonic()
    wait_until((tmp_path / "runs").exists, "the call")
    # A deadline of 18 s is set when the Job is 12 s old: twice its first lease.
    wait_until(lambda: kube.jobs_in(tmp_path)[0].spec.active_deadline_seconds >= 18, "renewals")
    assert time.monotonic() - began > 6
    gate.touch()
    assert future.result(LIMIT_S) == 1


def test_without_a_lease_jobs_have_no_deadline(new_executor: NewExecutor, tmp_path: Path) -> None:
    executor = new_executor({"client_lease_s": None})
    future = executor.submit(jobs.touch_and_wait, (tmp_path / "started", tmp_path / "gate"))
    wait_until((tmp_path / "started").exists, "the call")
    (job,) = kube.jobs_in(tmp_path)
    assert job.spec.active_deadline_seconds is None
    (tmp_path / "gate").touch()
    assert future.result(LIMIT_S) == "started"


# -- answers that are lost -------------------------------------------------------------------------


class _LossyWay:
    """A way to the API server, by HTTP, on which the answer to the first POST of a Job is lost."""

    def __init__(self) -> None:
        url = urlsplit(kube.admin().host)
        self._server = (url.hostname or "", url.port or 443)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.posts = 0  # of Jobs
        self.has_lost_it = False
        self._tls = ssl.create_default_context(cafile=kube.admin().ca_file)
        self._tls.check_hostname = False
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:  # closed
                return
            threading.Thread(target=self._carry, args=[client], daemon=True).start()

    def _carry(self, client: socket.socket) -> None:
        is_lost = False
        with (
            client,
            socket.create_connection(self._server) as plain,
            self._tls.wrap_socket(plain, server_hostname=self._server[0]) as server,
        ):
            while True:
                ready = [server] if server.pending() else select.select([client, server], [], [])[0]
                for source in ready:
                    piece = source.recv(1 << 16)
                    if source is server and is_lost:
                        self.has_lost_it = True
                        return
                    if not piece:
                        return
                    first_line = piece.partition(b"\r\n")[0]
                    if source is client and first_line.startswith(b"POST"):
                        self.posts += b"/jobs" in first_line
                        is_lost = self.posts == 1
                    (client if source is server else server).sendall(piece)


def test_a_job_whose_creations_answer_is_lost_runs_once(
    new_executor: NewExecutor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    way = _LossyWay()
    config = yaml.safe_load(Path(os.environ["KUBECONFIG"]).read_text())
    config["clusters"][0]["cluster"] = {"server": way.address}
    path = tmp_path / "lossy"
    path.write_text(yaml.safe_dump(config))
    monkeypatch.setenv("KUBECONFIG", str(path))
    with new_executor() as executor:
        future = executor.submit(jobs.note_run_and_wait, tmp_path / "runs", tmp_path / "gate")
        wait_until((tmp_path / "runs").exists, "the call")
        wait_until(future.running, "that this is known")
        assert [job.metadata.name for job in kube.jobs_in(tmp_path)] == [future.cluster_jobid]
        (tmp_path / "gate").touch()
        assert future.result(LIMIT_S) == 1
    _wait_for_the_end_of_all(tmp_path)
    assert way.has_lost_it
    way.close()
