"""Promises on `job_resources`: what each key does to pods, as they see it themselves or the cluster
does.
"""

from __future__ import annotations

import contextlib
import getpass
import json
import os
import shutil
import stat
import tempfile
import textwrap
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import kubernetes.client
import pytest
import yaml

from cluster_tools.errors import RemoteNeverStartedException
from support import jobs, kube
from support.clusters import KUBERNETES, element_of, log_of
from support.waiting import LIMIT_S, wait_until

pytestmark = [pytest.mark.kubernetes, pytest.mark.usefixtures("nothing_is_left")]

NewExecutor = Callable[..., Any]

# A user of pods that is neither root nor in the image.
_USER = 1000
_NOWHERE = {"kubernetes.io/hostname": "nowhere"}


def _manifest(thing: Any) -> Any:
    """As the API has it."""
    return kube.admin().core.api_client.sanitize_for_serialization(thing)


def _job_of(future: Any) -> Any:
    return kube.admin().batch.read_namespaced_job(future.cluster_jobid, kube.NAMESPACE)


@pytest.fixture
def waiting(new_executor: NewExecutor) -> Callable[..., Any]:
    """Gives the future of a call with these resources whose pod no node takes."""

    def waiting(resources: dict[str, Any]) -> Any:
        return new_executor({"node_selector": _NOWHERE, **resources}).submit(jobs.square, 1)

    return waiting


# -- where -----------------------------------------------------------------------------------------


def _wait_for_the_end_of_namespace(name: str) -> None:
    core = kube.admin().core
    core.delete_namespace(name)
    wait_until(
        lambda: name not in {n.metadata.name for n in core.list_namespace().items},
        "the namespace's end",
    )


def test_a_namespace_that_is_missing_is_made(
    new_executor: NewExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBECONFIG", kube.ADMIN_CONFIG or "")
    name = "cluster-tools-made"
    executor = new_executor({"namespace": name})
    try:
        future = executor.submit(jobs.square, 3)
        assert future.result(LIMIT_S) == 9
        assert name in {n.metadata.name for n in kube.admin().core.list_namespace().items}
        executor.shutdown()
    finally:
        _wait_for_the_end_of_namespace(name)


def test_the_context_is_the_one_that_is_named(
    new_executor: NewExecutor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = yaml.safe_load(Path(os.environ["KUBECONFIG"]).read_text())
    config["clusters"].append({"name": "away", "cluster": {"server": "https://127.0.0.1:9"}})
    config["contexts"].append({"name": "away", "context": {"cluster": "away", "user": "u"}})
    config["current-context"] = "away"
    path = tmp_path / "two"
    path.write_text(yaml.safe_dump(config))
    monkeypatch.setenv("KUBECONFIG", str(path))
    with new_executor({"context": "c"}) as executor:
        future = executor.submit(jobs.square, 3)
        assert future.result(LIMIT_S) == 9
    wait_until(lambda: not kube.admin().pods_of(future), "the pod's end")


def test_pods_run_on_nodes_with_the_selected_labels(new_executor: NewExecutor) -> None:
    for node in kube.admin().core.list_node().items:
        name = node.metadata.labels["kubernetes.io/hostname"]
        executor = new_executor({"node_selector": {"kubernetes.io/hostname": name}})
        future = executor.submit(jobs.say_wait_say, Path("/nowhere"))
        wait_until(future.running, "the call")
        assert kube.admin().pod_of(future).spec.node_name == node.metadata.name
        executor.__exit__(TimeoutError, None, None)


def test_a_toleration_lets_pods_onto_a_tainted_node(new_executor: NewExecutor) -> None:
    core = kube.admin().core
    (node, *_) = core.list_node().items
    name = node.metadata.name
    ours = {"key": "cluster-tools-tests", "effect": "NoSchedule", "value": "yes"}
    taints = _manifest(node.spec.taints or [])
    selector = {"kubernetes.io/hostname": node.metadata.labels["kubernetes.io/hostname"]}
    core.patch_node(name, {"spec": {"taints": [*taints, ours]}})
    try:
        intolerant = new_executor({"node_selector": selector}).submit(jobs.square, 2)
        tolerant = new_executor(
            {
                "node_selector": selector,
                "tolerations": [{"key": "cluster-tools-tests", "operator": "Exists"}],
            }
        ).submit(jobs.square, 3)
        assert tolerant.result(LIMIT_S) == 9
        assert kube.admin().pod_of(intolerant).spec.node_name is None
    finally:
        core.patch_node(name, {"spec": {"taints": taints or None}})
    assert intolerant.result(LIMIT_S) == 4


# -- how much --------------------------------------------------------------------------------------


def test_cpu_is_requested_and_memory_limited_too(waiting: Callable[..., Any]) -> None:
    pod = kube.admin().pod_of(waiting({"cpu": "50m", "memory": "64Mi"}))
    (container,) = pod.spec.containers
    assert container.resources.requests == {"cpu": "50m", "memory": "64Mi"}
    assert container.resources.limits == {"memory": "64Mi"}


def test_hugepages_are_requested_and_limited(waiting: Callable[..., Any]) -> None:
    pod = kube.admin().pod_of(waiting({"cpu": 0.05, "hugepages-2Mi": "4Mi"}))
    (container,) = pod.spec.containers
    assert container.resources.requests == {"cpu": "50m", "hugepages-2Mi": "4Mi"}
    assert container.resources.limits == {"hugepages-2Mi": "4Mi"}


def test_gpus_are_limited(waiting: Callable[..., Any]) -> None:
    (container,) = kube.admin().pod_of(waiting({"gpu": 2})).spec.containers
    assert container.resources.limits == {"nvidia.com/gpu": "2"}


def test_an_extended_resource_is_waited_for_and_given_to_one_call_at_a_time(
    new_executor: NewExecutor, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    core = kube.admin().core
    (node, *_) = core.list_node().items
    gate = tmp_path / "gate"
    executor = new_executor({"example.com/thing": 1})
    futures = executor.map_to_futures(
        jobs.touch_and_wait, [(tmp_path / f"started{i}", gate) for i in range(2)]
    )
    wait_until(lambda: "Insufficient example.com/thing" in caplog.text, "the warning")
    paths = [f"/status/{field}/example.com~1thing" for field in ("capacity", "allocatable")]
    core.patch_node_status(
        node.metadata.name, [{"op": "add", "path": path, "value": "1"} for path in paths]
    )
    try:
        wait_until(lambda: list(tmp_path.glob("started*")), "one of them")
        phases = ["Pending", "Running"]
        wait_until(lambda: sorted(_phases(futures[0].cluster_jobid)) == phases, "its pod")
        gate.touch()
        assert [future.result(LIMIT_S) for future in futures] == ["started0", "started1"]
    finally:
        core.patch_node_status(
            node.metadata.name, [{"op": "remove", "path": path} for path in paths]
        )


def _phases(job: str) -> list[str]:
    return [pod.status.phase for pod in kube.admin().pods(f"job-name={job}")]


def test_shared_memory_has_the_size_that_was_asked_for(new_executor: NewExecutor) -> None:
    size = new_executor({"shm_size": "96Mi"}).submit(os.statvfs, "/dev/shm").result(LIMIT_S)
    assert size.f_blocks * size.f_frsize == 96 << 20


def test_no_more_pods_than_parallelism_run_at_a_time(
    new_executor: NewExecutor, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    futures = new_executor({"parallelism": 2}).map_to_futures(
        jobs.touch_and_wait, [(tmp_path / f"started{i}", gate) for i in range(5)]
    )
    wait_until(lambda: len(list(tmp_path.glob("started*"))) == 2, "two of them")
    assert len(kube.admin().pods(f"job-name={futures[0].cluster_jobid}")) == 2
    gate.touch()
    assert [future.result(LIMIT_S) for future in futures] == [f"started{i}" for i in range(5)]


def test_a_call_that_finds_no_room_is_given_up_by_the_users_limit_while_others_of_its_array_run(
    new_executor: NewExecutor, tmp_path: Path
) -> None:
    executor = new_executor(
        {key: kube.NARROW_RESOURCES[key] for key in ("labels", "pod_template")},
        pending_timeout_s=8,
    )
    gate = tmp_path / "gate"
    futures = executor.map_to_futures(
        jobs.touch_and_wait, [(tmp_path / f"started{i}", gate) for i in range(2)]
    )
    wait_until(lambda: list(tmp_path.glob("started*")), "one of them")
    (late,) = [f for i, f in enumerate(futures) if not (tmp_path / f"started{i}").exists()]
    (first,) = [future for future in futures if future is not late]
    error = late.exception(20)
    gate.touch()
    assert isinstance(error, RemoteNeverStartedException)
    assert "pending_timeout_s = 8 s" in str(error)
    assert first.result(LIMIT_S)


# -- who -------------------------------------------------------------------------------------------


def _of_pod(executor: Any) -> dict[str, Any]:
    """What a call sees of its user."""
    futures = {
        "uid": executor.submit(os.getuid),
        "gid": executor.submit(os.getgid),
        "groups": executor.submit(os.getgroups),
        "home": executor.submit(jobs.environment, "HOME"),
        "user": executor.submit(jobs.environment, "USER"),
        "logname": executor.submit(jobs.environment, "LOGNAME"),
    }
    return {name: future.result(LIMIT_S) for name, future in futures.items()}


def test_calls_run_as_the_client_with_its_name(new_executor: NewExecutor) -> None:
    seen = _of_pod(new_executor())
    assert (seen["uid"], seen["gid"]) == (os.getuid(), os.getgid())
    assert set(seen["groups"]) == {os.getgid(), *os.getgroups()}
    assert seen["user"] == seen["logname"] == getpass.getuser()


def test_home_is_the_clients_where_it_is_mounted(
    new_executor: NewExecutor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    future = new_executor().submit(jobs.environment, "HOME")
    assert future.result(LIMIT_S) == str(tmp_path)


def test_home_is_tmp_where_the_clients_is_not_mounted(
    new_executor: NewExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/somewhere/else")
    assert new_executor().submit(jobs.environment, "HOME").result(LIMIT_S) == "/tmp"


def test_the_umask_is_the_one_that_is_named(new_executor: NewExecutor, tmp_path: Path) -> None:
    executor = new_executor({"umask": "0027"})
    executor.submit(jobs.touch, tmp_path / "made").result(LIMIT_S)
    assert stat.S_IMODE((tmp_path / "made").stat().st_mode) == 0o640


def test_a_user_who_cannot_read_the_clients_files_is_told_so(new_executor: NewExecutor) -> None:
    with _directory_of(os.getuid()) as directory:  # others may look into it
        executor = new_executor({"run_as": f"{_USER}:{_USER}"}, cfut_dir=str(directory))
        error = executor.submit(jobs.square, 1).exception(LIMIT_S)
        assert isinstance(error, RemoteNeverStartedException)
        assert f"belongs to another user than the one of this pod ({_USER})" in str(error)
        executor.shutdown()


def test_the_images_user_may_not_be_root(new_executor: NewExecutor) -> None:
    executor = new_executor({"run_as": None, "startup_timeout_s": 2})
    error = executor.submit(jobs.square, 1).exception(LIMIT_S)
    assert isinstance(error, RemoteNeverStartedException)
    assert "runAsNonRoot" in str(error)


def test_the_images_user_is_taken_where_the_template_names_one(new_executor: NewExecutor) -> None:
    template = {"spec": {"securityContext": {"runAsNonRoot": None, "runAsUser": os.getuid()}}}
    executor = new_executor({"run_as": None, "pod_template": template})
    assert executor.submit(os.getuid).result(LIMIT_S) == os.getuid()


def test_without_a_service_account_pods_have_no_token(new_executor: NewExecutor) -> None:
    token = "/var/run/secrets/kubernetes.io/serviceaccount/token"
    assert new_executor().submit(os.path.exists, token).result(LIMIT_S) is False
    named = new_executor({"service_account": kube.SERVICE_ACCOUNT})
    future = named.submit(jobs.wait_for, Path(token))
    assert future.result(LIMIT_S) == "token"


# -- what they are given ---------------------------------------------------------------------------

_ODD_VALUES = {
    "ODD_QUOTES": 'it\'s "quoted" `id` $(id) $HOME ${HOME} \\ \\n !',
    "ODD_LINES": "one\ntwo\n",
    "ODD_EMPTY": "",
    "ODD_LETTERS": "ärger 日本 \udcff",
    "ODD_SPACES": "  a \t b  ",
    "odd_secret": "c2VjcmV0LW9mLXRoZS1jbGllbnQ",
}


@pytest.fixture
def odd_environment(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    for name, value in _ODD_VALUES.items():
        monkeypatch.setenv(name, value)
    return _ODD_VALUES


def test_the_submitters_environment_arrives(
    new_executor: NewExecutor, odd_environment: dict[str, str]
) -> None:
    seen = new_executor().map(jobs.environment, list(odd_environment))
    assert list(seen) == list(odd_environment.values())


def test_the_submitters_environment_is_in_no_manifest(
    waiting: Callable[..., Any], odd_environment: dict[str, str]
) -> None:
    future = waiting({})
    pod, job = kube.admin().pod_of(future), _job_of(future)
    written = json.dumps([_manifest(pod), _manifest(job)], ensure_ascii=False)
    assert future.cluster_jobid in written
    for name, value in odd_environment.items():
        assert name not in written
        assert not value or json.dumps(value, ensure_ascii=False)[1:-1] not in written


def test_the_environment_is_readable_for_its_owner_alone(
    waiting: Callable[..., Any], odd_environment: dict[str, str], tmp_path: Path
) -> None:
    kube.admin().pod_of(waiting({}))
    found = [path for path in tmp_path.rglob("*") if path.is_file() and _has_secret(path)]
    assert found
    assert {stat.S_IMODE(path.stat().st_mode) for path in found} == {0o600}


def _has_secret(path: Path) -> bool:
    return _ODD_VALUES["odd_secret"].encode() in path.read_bytes()


def test_setup_lines_see_the_environment_and_add_to_it(
    new_executor: NewExecutor, odd_environment: dict[str, str]
) -> None:
    lines = ['export ADDED="<$odd_secret>"', "shopt -s extglob"]
    executor = new_executor(additional_setup_lines=lines)
    future = executor.submit(jobs.environment, "ADDED")
    assert future.result(LIMIT_S) == f"<{odd_environment['odd_secret']}>"


def test_the_python_is_the_one_that_is_named(new_executor: NewExecutor, tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\nexport THROUGH=it\nexec python "$@"\n')
    python.chmod(0o755)
    executor = new_executor({"python_executable": str(python)})
    assert executor.submit(jobs.environment, "THROUGH").result(LIMIT_S) == "it"


def _log_by_api(pod: str) -> str:
    return kube.admin().core.read_namespaced_pod_log(pod, kube.NAMESPACE)


def test_logs_are_in_cfut_dir_and_in_the_api_alike(
    new_executor: NewExecutor, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    futures = new_executor().map_to_futures(jobs.say_wait_say, [gate, gate])
    for future in futures:
        log = log_of(tmp_path, KUBERNETES, element_of(future))
        wait_until(lambda log=log: log.exists() and "before" in log.read_text(), "the log")
        wait_until(lambda f=future: kube.admin().pod_of(f).status.phase == "Running", "the pod")
        name = kube.admin().pod_of(future).metadata.name
        wait_until(lambda name=name: "before" in _log_by_api(name), "the API's log")
        assert _log_by_api(name) == log.read_text()
    gate.touch()
    assert [future.result(LIMIT_S) for future in futures] == [17, 17]
    for future in futures:
        assert "after" in log_of(tmp_path, KUBERNETES, element_of(future)).read_text()


# -- what they are called --------------------------------------------------------------------------


def test_labels_and_annotations_are_on_jobs_and_pods(waiting: Callable[..., Any]) -> None:
    future = waiting({"labels": {"team": "a"}, "annotations": {"example.com/why": "it's: \n{}"}})
    for thing in (_job_of(future), kube.admin().pod_of(future)):
        assert thing.metadata.labels["team"] == "a"
        assert thing.metadata.annotations["example.com/why"] == "it's: \n{}"


def test_autoscalers_are_asked_to_leave_pods_alone(waiting: Callable[..., Any]) -> None:
    annotations = kube.admin().pod_of(waiting({})).metadata.annotations
    assert annotations["cluster-autoscaler.kubernetes.io/safe-to-evict"] == "false"
    assert annotations["karpenter.sh/do-not-disrupt"] == "true"


def test_pods_have_the_priority_of_the_class(waiting: Callable[..., Any]) -> None:
    scheduling: Any = kubernetes.client.SchedulingV1Api(kube.admin().core.api_client)
    name = "cluster-tools-tests"
    scheduling.create_priority_class(
        {"metadata": {"name": name}, "value": 12, "preemptionPolicy": "Never"}
    )
    try:
        assert kube.admin().pod_of(waiting({"priority_class": name})).spec.priority == 12
    finally:
        scheduling.delete_priority_class(name)


def test_pods_have_the_secrets_to_pull_images_with(waiting: Callable[..., Any]) -> None:
    pod = kube.admin().pod_of(waiting({"image_pull_secrets": ["one", "other"]}))
    assert [secret.name for secret in pod.spec.image_pull_secrets] == ["one", "other"]


# -- pod_template ----------------------------------------------------------------------------------


def test_variables_of_the_template_are_added_to_the_workers(new_executor: NewExecutor) -> None:
    field = {"fieldRef": {"fieldPath": "spec.nodeName"}}
    worker = {"name": "worker", "env": [{"name": "NODE", "valueFrom": field}]}
    executor = new_executor({"pod_template": {"spec": {"containers": [worker]}}})
    nodes = {node.metadata.name for node in kube.admin().core.list_node().items}
    assert executor.submit(jobs.environment, "NODE").result(LIMIT_S) in nodes
    assert executor.submit(jobs.environment, "USER").result(LIMIT_S) == getpass.getuser()


def test_a_sidecar_runs_beside_a_call_and_ends_with_it(new_executor: NewExecutor) -> None:
    mount = {"name": "side", "mountPath": "/side"}
    sidecar = {
        "name": "sidecar",
        "image": kube.IMAGE,
        "restartPolicy": "Always",
        "command": ["sh", "-c", "touch /side/up; exec sleep 600"],
        "volumeMounts": [mount],
    }
    spec: dict[str, Any] = {
        "initContainers": [sidecar],
        "containers": [{"name": "worker", "volumeMounts": [mount]}],
        "volumes": [{"name": "side", "emptyDir": {}}],
    }
    with new_executor({"pod_template": {"spec": spec}}) as executor:
        future = executor.submit(jobs.wait_for, Path("/side/up"))
        assert future.result(LIMIT_S) == "up"
    wait_until(lambda: not kube.admin().pods_of(future), "the pod's end")


# -- mounts ----------------------------------------------------------------------------------------


def test_a_host_path_is_there_only_if_it_is_mounted(
    new_executor: NewExecutor, tmp_path_factory: pytest.TempPathFactory
) -> None:
    data = tmp_path_factory.mktemp("data")
    (data / "scan").touch()
    tests = kube.RESOURCES["mounts"][0]
    without = new_executor({"mounts": [tests]}).submit(os.path.exists, str(data))
    mounted = new_executor({"mounts": [tests, str(data)]}).submit(os.listdir, str(data))
    assert mounted.result(LIMIT_S) == ["scan"]
    assert without.result(LIMIT_S) is False


@contextlib.contextmanager
def _directory_of(user: int) -> Generator[Path]:
    """A directory of a user's, which all may look into; pytest's are for the tests' user alone."""
    directory = Path(tempfile.mkdtemp(prefix="cluster-tools-"))
    os.chown(directory, user, user)
    directory.chmod(0o755)
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


@contextlib.contextmanager
def _claim(name: str, directory: Path, namespace: str = kube.NAMESPACE) -> Generator[None]:
    """A claim to a volume that is this directory."""
    core = kube.admin().core
    volume = f"{namespace}-{name}"
    common = {
        "accessModes": ["ReadWriteMany"],
        "storageClassName": "",
    }
    core.create_persistent_volume(
        {
            "metadata": {"name": volume},
            "spec": {
                **common,
                "capacity": {"storage": "1Gi"},
                "hostPath": {"path": str(directory)},
                "persistentVolumeReclaimPolicy": "Retain",
            },
        }
    )
    core.create_namespaced_persistent_volume_claim(
        namespace,
        {
            "metadata": {"name": name},
            "spec": {
                **common,
                "volumeName": volume,
                "resources": {"requests": {"storage": "1Gi"}},
            },
        },
    )
    try:
        yield
    finally:
        core.delete_namespaced_persistent_volume_claim(name, namespace)
        core.delete_persistent_volume(volume)


def test_a_claim_is_mounted_where_it_shall_be(new_executor: NewExecutor) -> None:
    with _directory_of(os.getuid()) as directory, _claim("scans", directory):
        (directory / "scan").touch()
        mounts = [*kube.RESOURCES["mounts"], {"claim": "scans", "path": "/data/scans"}]
        executor = new_executor({"mounts": mounts})
        assert executor.submit(os.listdir, "/data/scans").result(LIMIT_S) == ["scan"]
        executor.submit(jobs.touch, Path("/data/scans/result")).result(LIMIT_S)
        assert (directory / "result").exists()
        executor.shutdown()


# -- clients in pods -------------------------------------------------------------------------------

_SHARED = "/shared/project"
_CLIENT = """\
import json, os, sys, time

import cluster_tools


def square_once_open(number):
    open(f"started{{number}}", "x").close()
    while not os.path.exists("gate"):
        time.sleep(0.05)
    return number * number


def user():
    return os.getuid(), os.getgid(), sorted(os.getgroups())


if __name__ == "__main__":
    resources = {resources!r}
    with cluster_tools.get_executor(
        "kubernetes", job_resources=resources, cfut_dir="logs"
    ) as executor:
"""


class _PodClient:
    """A program that runs in a pod, as a user who is not root.

    Arguments:
        namespace: Has the service account of the tests.
        directory: The pod sees it, in `volume`, as its working directory `path`.
        body: What is run with `executor`.
        groups: Of the user, besides its own.
    """

    def __init__(
        self,
        namespace: str,
        directory: Path,
        volume: dict[str, Any],
        path: str,
        body: str,
        resources: dict[str, Any],
        groups: tuple[int, ...] = (),
    ):
        text = _CLIENT.format(resources={"image": kube.IMAGE, "namespace": namespace, **resources})
        (directory / "script.py").write_text(text + textwrap.indent(textwrap.dedent(body), " " * 8))
        manifest = {
            "metadata": {"generateName": "user-"},
            "spec": {
                "serviceAccountName": kube.SERVICE_ACCOUNT,
                "restartPolicy": "Never",
                "terminationGracePeriodSeconds": 1,
                "securityContext": {
                    "runAsUser": _USER,
                    "runAsGroup": _USER,
                    "runAsNonRoot": True,
                    "supplementalGroups": list(groups),
                    "seccompProfile": {"type": "RuntimeDefault"},
                },
                "containers": [
                    {
                        "name": "user",
                        "image": kube.IMAGE,
                        "command": ["python", "script.py"],
                        "workingDir": path,
                        "volumeMounts": [{"name": "shared", "mountPath": path}],
                        "securityContext": {
                            "allowPrivilegeEscalation": False,
                            "capabilities": {"drop": ["ALL"]},
                        },
                    }
                ],
                "volumes": [{"name": "shared", **volume}],
            },
        }
        self._core = kube.admin().core
        self._namespace = namespace
        metadata = self._core.create_namespaced_pod(namespace, manifest).metadata
        self.name, self.uid = metadata.name, metadata.uid

    def __enter__(self) -> _PodClient:
        return self

    def __exit__(self, *_: object) -> None:
        self._core.delete_namespaced_pod(self.name, self._namespace, grace_period_seconds=0)

    def phase(self) -> str:
        return self._core.read_namespaced_pod(self.name, self._namespace).status.phase

    def wait_for(self, path: Path) -> None:
        """Raises: AssertionError, where it ends without."""
        wait_until(lambda: path.exists() or self.phase() in ("Failed", "Succeeded"), str(path))
        assert path.exists(), self._log()

    def succeed(self) -> str:
        """Waits for its end, which has to be a good one, and returns what it has printed."""
        wait_until(lambda: self.phase() in ("Failed", "Succeeded"), "its end")
        assert self.phase() == "Succeeded", self._log()
        return self._log()

    def _log(self) -> str:
        return self._core.read_namespaced_pod_log(self.name, self._namespace)


def test_calls_of_a_user_who_is_not_root_have_its_groups() -> None:
    body = "print(json.dumps(executor.submit(user).result()))"
    with _directory_of(_USER) as directory:
        volume = {"hostPath": {"path": str(directory)}}
        client = _PodClient(
            kube.NAMESPACE, directory, volume, str(directory), body, {}, groups=(4000, 4001)
        )
        with client:
            seen = json.loads(client.succeed().splitlines()[-1])
        (log,) = (directory / "logs").iterdir()
        assert log.stat().st_uid == log.stat().st_gid == _USER
    uid, gid, groups = seen
    assert (uid, gid) == (_USER, _USER)
    assert set(groups) == {_USER, 4000, 4001}


@contextlib.contextmanager
def _restricted_namespace(name: str) -> Generator[None]:
    """Has a client with the README's Role, who may get pods besides: its own for the owner of its
    Jobs.
    """
    core = kube.admin().core
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    core.create_namespace({"metadata": {"name": name, "labels": labels}})
    try:
        get_pods = {"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]}
        kube.become_client(name, rules=[*kube.role()["rules"], get_pods]).unlink()
        wait_until(
            lambda: (
                "default"
                in {s.metadata.name for s in core.list_namespaced_service_account(name).items}
            ),
            "its service account",
        )
        yield
    finally:
        _wait_for_the_end_of_namespace(name)


@pytest.mark.timeout(120)
def test_a_restricted_namespace_is_enough_for_client_and_calls_on_a_claim() -> None:
    namespace = "cluster-tools-claims"
    resources = {
        "run_as": f"{_USER}:{_USER}",
        "mounts": [{"claim": "project", "path": _SHARED}],
    }
    body = "print(list(executor.map(square_once_open, [2, 3, 4])))"
    volume = {"persistentVolumeClaim": {"claimName": "project"}}
    with (
        _directory_of(_USER) as directory,
        _restricted_namespace(namespace),
        _claim("project", directory, namespace),
        _PodClient(namespace, directory, volume, _SHARED, body, resources) as client,
    ):
        for number in (2, 3, 4):
            client.wait_for(directory / f"started{number}")
        (job,) = kube.admin().jobs(namespace)
        (owner,) = job.metadata.owner_references
        assert (owner.kind, owner.name, owner.uid) == ("Pod", client.name, client.uid)
        for pod in kube.admin().pods(namespace=namespace):
            assert not [v.name for v in pod.spec.volumes if v.host_path is not None]
        (directory / "gate").touch()
        assert client.succeed().splitlines()[-1] == "[4, 9, 16]"
        wait_until(lambda: not kube.admin().jobs(namespace), "the Job's end")
        wait_until(lambda: len(kube.admin().pods(namespace=namespace)) == 1, "its pods' end")
        names = sorted(path.name for path in (directory / "logs").iterdir())
        assert names == [f"kube.{job.metadata.name}_{i}.log.stdout" for i in range(3)]


@pytest.mark.timeout(120)
def test_jobs_of_a_client_whose_pod_is_deleted_go_with_it() -> None:
    namespace = "cluster-tools-claims"
    resources = {
        "run_as": f"{_USER}:{_USER}",
        "mounts": [{"claim": "project", "path": _SHARED}],
    }
    volume = {"persistentVolumeClaim": {"claimName": "project"}}
    with (
        _directory_of(_USER) as directory,
        _restricted_namespace(namespace),
        _claim("project", directory, namespace),
    ):
        body = "executor.submit(square_once_open, 2).result()"
        with _PodClient(namespace, directory, volume, _SHARED, body, resources) as client:
            client.wait_for(directory / "started2")
        wait_until(lambda: not kube.admin().jobs(namespace), "the Job's end")
        wait_until(lambda: not kube.admin().pods(namespace=namespace), "its pods' end")


# -- requests --------------------------------------------------------------------------------------


def test_an_executors_requests_are_few(
    new_executor: NewExecutor, test_cluster: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = kube.become_client(name="counted")
    monkeypatch.setenv("KUBECONFIG", str(path))
    audit_log: Path = test_cluster.directory / "audit.log"
    start = audit_log.stat().st_size
    with new_executor() as executor:
        futures = executor.map_to_futures(jobs.square, range(20))
        assert [future.result(LIMIT_S) for future in futures] == [n * n for n in range(20)]
    made = {future.cluster_jobid for future in futures}
    wait_until(lambda: not made & {j.metadata.name for j in kube.admin().jobs()}, "the Job's end")
    path.unlink()
    user = f"system:serviceaccount:{kube.NAMESPACE}:counted"
    with audit_log.open("rb") as file:
        file.seek(start)
        events = [json.loads(line) for line in file if line.endswith(b"\n")]
    requests = {
        event["auditID"]: (event["verb"], event["objectRef"]["resource"])
        for event in events
        if event["user"]["username"] == user
    }
    looks = [r for r in requests.values() if r in (("list", "pods"), ("list", "events"))]
    assert requests
    assert len(requests) - len(looks) <= 10 + 3 * len(made), sorted(requests.values())
