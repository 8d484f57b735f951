"""The Kubernetes of the tests: whether there is one, who we are there, what it has of ours.

KUBECONFIG names it, with a user who may do everything. What is tested runs as another one, a
service account with just the Role that the README shows.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import re
import tempfile
from collections.abc import Callable, Generator
from functools import cache
from pathlib import Path
from typing import Any

from support.waiting import wait_until

NAMESPACE = "cluster-tools-tests"
IMAGE = os.environ.get("CLUSTER_TOOLS_TEST_IMAGE", "localhost/cluster-tools-tests:worker")
SERVICE_ACCOUNT = "client"
RESOURCES: dict[str, Any] = {
    "namespace": NAMESPACE,
    "image": IMAGE,
    # The functions that tests send, and where tests put what they wait for.
    "mounts": [str(Path(__file__).parents[1]), tempfile.gettempdir()],
}
# One pod at a time in the whole cluster: they keep away from each other, on all that runs Linux.
NARROW_RESOURCES: dict[str, Any] = {
    **RESOURCES,
    "labels": {"narrow": "yes"},
    "pod_template": {
        "spec": {
            "affinity": {
                "podAntiAffinity": {
                    "requiredDuringSchedulingIgnoredDuringExecution": [
                        {
                            "labelSelector": {"matchLabels": {"narrow": "yes"}},
                            "topologyKey": "kubernetes.io/os",
                        }
                    ]
                }
            }
        }
    },
}
_README = Path(__file__).parents[2] / "README.md"
ADMIN_CONFIG = os.environ.get("KUBECONFIG")
_TIMEOUT_S = 10.0


class Admin:
    """The user who may do everything: looks on, and does harm."""

    def __init__(self) -> None:
        import kubernetes.client
        import kubernetes.config

        api = kubernetes.config.new_client_from_config(ADMIN_CONFIG)
        api.configuration.retries = False
        self.core: Any = kubernetes.client.CoreV1Api(api)
        self.batch: Any = kubernetes.client.BatchV1Api(api)
        self.rbac: Any = kubernetes.client.RbacAuthorizationV1Api(api)
        self.policy: Any = kubernetes.client.PolicyV1Api(api)
        self.host: str = api.configuration.host
        self.ca_file: str | None = api.configuration.ssl_ca_cert

    def pods(self, selector: str = "", namespace: str = NAMESPACE) -> list[Any]:
        return self.core.list_namespaced_pod(namespace, label_selector=selector).items

    def jobs(self, namespace: str = NAMESPACE) -> list[Any]:
        return self.batch.list_namespaced_job(namespace).items

    def pods_of(self, future: Any, namespace: str = NAMESPACE) -> list[Any]:
        """Those of a future's Job, in an array of its element."""
        pods = self.pods(f"job-name={future.cluster_jobid.partition('_')[0]}", namespace)
        index = getattr(future, "cluster_jobindex", None)
        annotation = "batch.kubernetes.io/job-completion-index"
        return [
            p for p in pods if index is None or p.metadata.annotations[annotation] == str(index)
        ]

    def pod_of(self, future: Any, namespace: str = NAMESPACE) -> Any:
        """Its one pod; waits for it."""
        wait_until(lambda: self.pods_of(future, namespace), "a pod")
        (pod,) = self.pods_of(future, namespace)
        return pod


@contextlib.contextmanager
def label_of_a_node(label: str) -> Generator[None]:
    core = admin().core
    name = core.list_node().items[0].metadata.name
    core.patch_node(name, {"metadata": {"labels": {label: "yes"}}})
    try:
        yield
    finally:
        core.patch_node(name, {"metadata": {"labels": {label: None}}})


@cache
def admin() -> Admin:
    return Admin()


def reason_against_kubernetes() -> str | None:
    """Why pods cannot be made here, None where they can."""
    if ADMIN_CONFIG is None:
        return "KUBECONFIG names no cluster"
    try:
        admin().core.list_node(_request_timeout=_TIMEOUT_S)
    except ImportError as error:
        return f"the client is not installed: {error}"
    except Exception as error:
        first_line = (str(error).splitlines() or [repr(error)])[0]
        return f"KUBECONFIG is {ADMIN_CONFIG}, but that cluster does not answer: {first_line}"
    return None


def _ignoring_what_is_there(create: Callable[..., Any], *arguments: Any) -> None:
    import kubernetes.client

    try:
        create(*arguments)
    except kubernetes.client.ApiException as error:
        if error.status != 409:
            raise


def role() -> dict[str, Any]:
    """The Role that the README says is needed."""
    import yaml

    blocks = re.findall(r"```yaml\n(.*?)```", _README.read_text(), re.DOTALL)
    (text,) = [block for block in blocks if "kind: Role\n" in block]
    return yaml.safe_load(text)


def become_client(
    namespace: str = NAMESPACE, rules: Any = None, name: str = SERVICE_ACCOUNT
) -> Path:
    """A kubeconfig of a service account with the README's Role, or with `rules`."""

    api = admin()
    _ignoring_what_is_there(api.core.create_namespace, {"metadata": {"name": namespace}})
    _ignoring_what_is_there(
        api.core.create_namespaced_service_account, namespace, {"metadata": {"name": name}}
    )
    wanted = {**role(), "metadata": {"name": name}}
    if rules is not None:
        wanted["rules"] = rules
    _ignoring_what_is_there(api.rbac.create_namespaced_role, namespace, wanted)
    api.rbac.replace_namespaced_role(name, namespace, wanted)
    binding = {
        "metadata": {"name": name},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": name},
        "subjects": [{"kind": "ServiceAccount", "name": name, "namespace": namespace}],
    }
    _ignoring_what_is_there(api.rbac.create_namespaced_role_binding, namespace, binding)
    request = {"spec": {"expirationSeconds": 7200}}
    token = api.core.create_namespaced_service_account_token(name, namespace, request).status.token
    return write_config(token)


@contextlib.contextmanager
def new_namespace(name: str, labels: dict[str, str] | None = None) -> Generator[Path]:
    """Gives the kubeconfig of a client in it. Leaving `with` deletes it, and all that is in it."""
    api = admin()
    api.core.create_namespace({"metadata": {"name": name, "labels": labels or {}}})
    path = become_client(name)
    wait_until(
        lambda: [
            s
            for s in api.core.list_namespaced_service_account(name).items
            if s.metadata.name == "default"
        ],
        "its service account",
    )
    try:
        yield path
    finally:
        path.unlink()
        api.core.delete_namespace(name)
        wait_until(
            lambda: name not in {n.metadata.name for n in api.core.list_namespace().items},
            "the namespace's end",
        )


def write_config(token: str, host: str | None = None) -> Path:
    """A kubeconfig with this token."""
    import yaml

    api = admin()
    cluster: dict[str, Any] = {"server": host or api.host}
    if api.ca_file:
        cluster["certificate-authority-data"] = base64.b64encode(
            Path(api.ca_file).read_bytes()
        ).decode()
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "c", "cluster": cluster}],
        "users": [{"name": "u", "user": {"token": token}}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        "current-context": "c",
    }
    fd, path = tempfile.mkstemp(prefix="kubeconfig-")
    with open(fd, "w") as file:
        yaml.safe_dump(config, file)
    return Path(path)


def elements_of(directory: Path) -> list[str]:
    """Pods that have not ended, of executors whose `cfut_dir` is in the directory."""
    found: list[str] = []
    for pod in admin().pods():
        text = json.dumps(pod.spec.containers[0].command)
        if str(directory) in text and pod.status.phase in ("Pending", "Running"):
            found.append(f"{pod.metadata.name} {pod.status.phase}")
    return found


def jobs_in(directory: Path) -> list[Any]:
    """Jobs of executors whose `cfut_dir` is in the directory."""
    return [
        job
        for job in admin().jobs()
        if str(directory) in str(job.spec.template.spec.containers[0].command)
    ]
