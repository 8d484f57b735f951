"""Promises on `job_resources` of Kubernetes, and on the manifest of a Job that comes of them."""

from __future__ import annotations

import math
import os
import re
from pathlib import Path
from typing import Any

import pytest

from cluster_tools.schedulers.kubernetes.manifest import (
    POD_NAME,
    POD_UID,
    SESSION_LABEL,
    WORKER_CONTAINER,
    Claim,
    job_manifest,
    job_name,
    merged,
    parse_resources,
)

IMAGE = "registry/name:tag"
TOKEN = "0a1b2c3d.12.345.6"
# https://kubernetes.io/docs/concepts/overview/working-with-objects/names/#dns-label-names
DNS_LABEL = "[a-z0-9]([-a-z0-9]*[a-z0-9])?"


def _job(
    count: int = 3,
    directories: tuple[str, ...] = ("/work",),
    grace_s: float = 5.0,
    owner: dict[str, str] | None = None,
    **job_resources: Any,
) -> dict[str, Any]:
    return job_manifest(
        parse_resources({"image": IMAGE, **job_resources}),
        name="call-0a1b2c3d-0-0-0",
        session="0a1b2c3d",
        count=count,
        command=["/bin/sh", "-c", "true"],
        directories=directories,
        grace_s=grace_s,
        owner=owner,
    )


def _pod(**arguments: Any) -> dict[str, Any]:
    return _job(**arguments)["spec"]["template"]["spec"]


def _worker(**arguments: Any) -> dict[str, Any]:
    (container,) = _pod(**arguments)["containers"]
    assert container["name"] == WORKER_CONTAINER
    return container


def _environment(container: dict[str, Any]) -> dict[str, Any]:
    return {entry["name"]: entry.get("value", entry.get("valueFrom")) for entry in container["env"]}


def _mounted(pod: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Where -> the volume that is mounted there."""
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    assert len(volumes) == len(pod["volumes"])
    (container,) = pod["containers"]
    mounts = container["volumeMounts"]
    places = {mount["mountPath"]: volumes[mount["name"]] for mount in mounts}
    assert len(places) == len(mounts)
    assert {mount["name"] for mount in mounts} == set(volumes)
    return places


# -- where keys land --


def test_each_element_of_an_indexed_job_has_one_end_of_its_own() -> None:
    job = _job(count=3)
    assert (job["apiVersion"], job["kind"]) == ("batch/v1", "Job")
    spec = job["spec"]
    assert spec["completionMode"] == "Indexed"
    assert (spec["completions"], spec["parallelism"]) == (3, 3)
    assert (spec["backoffLimit"], spec["backoffLimitPerIndex"]) == (2147483647, 0)
    assert spec["podReplacementPolicy"] == "Failed"
    assert spec["ttlSecondsAfterFinished"] == 604800
    assert spec["template"]["spec"]["restartPolicy"] == "Never"


def test_image_and_command_are_those_of_the_container() -> None:
    worker = _worker()
    assert worker["image"] == IMAGE
    assert worker["command"] == ["/bin/sh", "-c", "true"]
    assert worker["terminationMessagePolicy"] == "FallbackToLogsOnError"


@pytest.mark.parametrize(
    ("key", "value", "there", "expected"),
    [
        ("node_selector", {"disk": "ssd"}, "nodeSelector", {"disk": "ssd"}),
        ("node_selector", {"rank": 1}, "nodeSelector", {"rank": "1"}),
        ("service_account", "me", "serviceAccountName", "me"),
        ("priority_class", "low", "priorityClassName", "low"),
        ("image_pull_secrets", ["a", "b"], "imagePullSecrets", [{"name": "a"}, {"name": "b"}]),
        (
            "tolerations",
            [{"key": "gpu", "operator": "Exists"}],
            "tolerations",
            [{"key": "gpu", "operator": "Exists"}],
        ),
        ("time_limit_s", 90, "activeDeadlineSeconds", 90),
        ("time_limit_s", 90.0, "activeDeadlineSeconds", 90),
    ],
)
def test_a_key_of_the_pod_lands_there_and_is_left_out_by_default(
    key: str, value: object, there: str, expected: object
) -> None:
    assert _pod(**{key: value})[there] == expected
    assert there not in _pod()
    assert there not in _pod(**{key: None})


@pytest.mark.parametrize("image", ["a:1", "a:latest", "a"])
def test_an_image_that_is_there_is_not_pulled_unless_that_is_asked_for(image: str) -> None:
    assert _worker(image=image)["imagePullPolicy"] == "IfNotPresent"
    for policy in ("Always", "IfNotPresent", "Never"):
        assert _worker(image=image, image_pull_policy=policy)["imagePullPolicy"] == policy
    template = {"spec": {"containers": [{"name": "worker", "imagePullPolicy": "Always"}]}}
    assert _worker(pod_template=template)["imagePullPolicy"] == "Always"


def test_what_cannot_start_is_given_up_after_three_minutes_by_default() -> None:
    assert parse_resources({"image": IMAGE}).startup_timeout_s == 180


def test_keys_of_the_client_are_kept_for_it_and_in_no_manifest() -> None:
    values: dict[str, Any] = {
        "namespace": "here",
        "context": "there",
        "python_executable": "/opt/python",
        "umask": "0002",
        "startup_timeout_s": 30,
    }
    resources = parse_resources({"image": IMAGE, **values})
    assert {key: getattr(resources, key) for key in values} == values
    assert _job(**values) == _job()


@pytest.mark.parametrize(
    ("umask", "expected"), [("0002", "0002"), ("77", "77"), (0o27, "0027"), (0, "0000")]
)
def test_a_umask_is_octal(umask: object, expected: str) -> None:
    assert parse_resources({"image": IMAGE, "umask": umask}).umask == expected


def test_labels_and_annotations_are_those_of_job_and_pods() -> None:
    job = _job(labels={"team": "a", SESSION_LABEL: "mine"}, annotations={"note": 1})
    for metadata in (job["metadata"], job["spec"]["template"]["metadata"]):
        assert metadata["labels"] == {"team": "a", SESSION_LABEL: "0a1b2c3d"}
        assert metadata["annotations"]["note"] == "1"
    assert job["metadata"]["name"] == "call-0a1b2c3d-0-0-0"


def test_what_tidies_nodes_is_asked_to_wait_unless_the_user_says_otherwise() -> None:
    safe = "cluster-autoscaler.kubernetes.io/safe-to-evict"
    by_default = _job()["spec"]["template"]["metadata"]["annotations"]
    assert by_default == {safe: "false", "karpenter.sh/do-not-disrupt": "true"}
    told = _job(annotations={safe: "true"})["spec"]["template"]["metadata"]["annotations"]
    assert told[safe] == "true"


def test_parallelism_is_that_of_the_job_within_its_count() -> None:
    assert _job(count=10_000)["spec"]["parallelism"] == 500
    assert _job(count=10_000, parallelism=7)["spec"]["parallelism"] == 7
    assert _job(count=3, parallelism=7)["spec"]["parallelism"] == 3


def test_a_lease_is_the_deadline_of_the_job_and_none_is_no_deadline() -> None:
    assert _job()["spec"]["activeDeadlineSeconds"] == 900
    assert _job(client_lease_s=60)["spec"]["activeDeadlineSeconds"] == 60
    for job in (_job(client_lease_s=None), _job(client_lease_s=None, time_limit_s=5)):
        assert "activeDeadlineSeconds" not in job["spec"]


def test_the_time_for_an_end_is_a_whole_second_at_least() -> None:
    assert _pod(grace_s=0.2)["terminationGracePeriodSeconds"] == 1
    assert _pod(grace_s=30.0)["terminationGracePeriodSeconds"] == 30


def test_an_owner_is_a_reference_of_the_job_alone() -> None:
    owner = {"apiVersion": "v1", "kind": "Pod", "name": "me", "uid": "1-2"}
    job = _job(owner=owner)
    assert job["metadata"]["ownerReferences"] == [owner]
    assert "ownerReferences" not in job["spec"]["template"]["metadata"]
    assert "ownerReferences" not in _job()["metadata"]


def test_signals_reach_a_worker_that_is_not_process_1() -> None:
    assert _pod()["shareProcessNamespace"] is True


def test_a_worker_knows_its_pod() -> None:
    environment = _environment(_worker())
    assert environment[POD_NAME] == {"fieldRef": {"fieldPath": "metadata.name"}}
    assert environment[POD_UID] == {"fieldRef": {"fieldPath": "metadata.uid"}}


def test_a_token_of_a_service_account_is_in_pods_that_name_one_alone() -> None:
    assert _pod()["automountServiceAccountToken"] is False
    assert _pod(service_account="me")["automountServiceAccountToken"] is True
    assert _pod()["enableServiceLinks"] is False


# -- resources --


@pytest.mark.parametrize(
    ("job_resources", "requests", "limits"),
    [
        ({}, {}, {}),
        ({"cpu": 2}, {"cpu": "2"}, {}),
        ({"cpu": 0.5}, {"cpu": "0.5"}, {}),
        ({"memory": "4Gi"}, {"memory": "4Gi"}, {"memory": "4Gi"}),
        ({"memory": 1 << 30}, {"memory": "1073741824"}, {"memory": "1073741824"}),
        ({"gpu": 1}, {}, {"nvidia.com/gpu": "1"}),
        ({"example.com/dongle": 3}, {}, {"example.com/dongle": "3"}),
        (
            {"hugepages-2Mi": "64Mi"},
            {"hugepages-2Mi": "64Mi"},
            {"hugepages-2Mi": "64Mi"},
        ),
        (
            {"cpu": "250m", "memory": "1Gi", "gpu": 2, "amd.com/gpu": None},
            {"cpu": "250m", "memory": "1Gi"},
            {"memory": "1Gi", "nvidia.com/gpu": "2"},
        ),
    ],
)
def test_requests_and_limits(
    job_resources: dict[str, Any], requests: dict[str, str], limits: dict[str, str]
) -> None:
    resources = _worker(**job_resources)["resources"]
    assert resources == {"requests": requests, "limits": limits}


def test_shared_memory_is_a_volume_in_memory_of_that_size() -> None:
    places = _mounted(_pod(shm_size="2Gi"))
    assert places["/dev/shm"]["emptyDir"] == {"medium": "Memory", "sizeLimit": "2Gi"}
    assert "/dev/shm" not in _mounted(_pod())


# -- bad values --


@pytest.mark.parametrize("given", [{}, {"image": None}, {"image": ""}, {"image": 3}])
def test_without_an_image_the_error_shows_one(given: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=re.escape('{"image": "registry/name:tag"}')):
        parse_resources(given)


@pytest.mark.parametrize("key", ["mem", "cpus", "time", "hugepages", "Image", ""])
def test_an_unknown_key_is_refused_with_all_known_ones(key: str) -> None:
    with pytest.raises(ValueError, match=f"no key {key!r}.*client_lease_s.*mounts.*hugepages-"):
        parse_resources({"image": IMAGE, key: "1"})


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("namespace", ""),
        ("namespace", 3),
        ("namespace", "a\nb"),
        ("namespace", "a\n"),
        ("context", ["a"]),
        ("python_executable", ["python", "-I"]),
        ("service_account", True),
        ("priority_class", 1),
        ("umask", "0o22"),
        ("umask", "789"),
        ("umask", -1),
        ("umask", "0002\n"),
        ("umask", 0o10000),
        ("node_selector", "disk=ssd"),
        ("node_selector", ["disk"]),
        ("labels", "a=b"),
        ("annotations", ["a"]),
        ("shm_size", ["1Gi"]),
        ("shm_size", ""),
        ("cpu", True),
        ("cpu", object()),
        ("memory", ""),
        ("memory", ["4Gi"]),
        ("gpu", {"count": 1}),
        ("gpu", False),
        ("example.com/dongle", []),
        ("hugepages-2Mi", []),
        ("image_pull_secrets", "secret"),
        ("image_pull_secrets", [1]),
        ("tolerations", {"key": "gpu"}),
        ("tolerations", "gpu"),
        ("tolerations", ["gpu"]),
        ("run_as", 1000),
        ("run_as", "1000"),
        ("run_as", "me:us"),
        ("run_as", (1, 2, 3)),
        ("run_as", "-1:1"),
        ("run_as", (1, None)),
        ("parallelism", 0),
        ("parallelism", True),
        ("parallelism", 1.5),
        ("parallelism", "3"),
        ("time_limit_s", 0),
        ("time_limit_s", "1h"),
        ("time_limit_s", math.nan),
        ("time_limit_s", math.inf),
        ("startup_timeout_s", -5),
        ("image_pull_policy", "always"),
        ("image_pull_policy", ""),
        ("image_pull_policy", True),
        ("image_pull_policy", ["Always"]),
        ("client_lease_s", 0),
        ("client_lease_s", False),
        ("client_lease_s", math.inf),
        ("pod_template", "spec: {}"),
        ("pod_template", []),
        ("mounts", "/data"),
        ("mounts", {"claim": "a", "path": "/a"}),
        ("mounts", 3),
        ("mounts", [3]),
        ("mounts", [None]),
        ("mounts", [{"claim": "a"}]),
        ("mounts", [{"claim": "", "path": "/a"}]),
        ("mounts", [{"claim": "a", "path": 3}]),
        ("mounts", [{"claim": "a", "path": "/a", "read_only": True}]),
    ],
)
def test_a_bad_value_is_an_error_that_names_its_key(key: str, value: object) -> None:
    word = "mount" if key == "mounts" else re.escape(repr(key))
    with pytest.raises(ValueError, match=f"^job_resources: .*{word}"):
        parse_resources({"image": IMAGE, key: value})


# -- mounts --


@pytest.mark.parametrize("path", ["/", "//", "/..", "/a/.."])
def test_nothing_is_mounted_on_the_root(path: str) -> None:
    for mount in (path, {"claim": "data", "path": path}):
        with pytest.raises(ValueError, match=r"mounts.* /"):
            parse_resources({"image": IMAGE, "mounts": [mount]})


def test_host_paths_are_mounted_where_they_are_and_have_to_exist() -> None:
    places = _mounted(_pod(mounts=["/data", Path("/scratch/me")], directories=("/work", "/logs")))
    assert set(places) == {"/data", "/scratch/me", "/work", "/logs"}
    for path, volume in places.items():
        assert volume["hostPath"] == {"path": path, "type": "Directory"}


def test_a_path_in_another_mount_needs_none_of_its_own() -> None:
    pod = _pod(
        mounts=["/data/a/b", "/data", "/data/", "/data2", "/x/../data/c"],
        directories=("/data/a", "/data2/work", "/data2/work"),
    )
    assert set(_mounted(pod)) == {"/data", "/data2"}


def test_a_relative_path_is_the_clients(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert parse_resources({"image": IMAGE, "mounts": ["a"]}).host_paths == [f"{tmp_path}/a"]


def test_a_claim_is_mounted_at_its_path_and_covers_what_is_in_it() -> None:
    mounts = [{"claim": "data", "path": "/data"}, {"claim": "home", "path": "/home/me"}]
    assert parse_resources({"image": IMAGE, "mounts": mounts}).claims == [
        Claim("data", "/data"),
        Claim("home", "/home/me"),
    ]
    places = _mounted(_pod(mounts=[*mounts, "/scratch"], directories=("/data/work", "/home")))
    assert set(places) == {"/data", "/home/me", "/scratch", "/home"}
    assert places["/data"]["persistentVolumeClaim"] == {"claimName": "data"}
    assert places["/home/me"]["persistentVolumeClaim"] == {"claimName": "home"}
    assert "hostPath" in places["/home"]


def test_a_home_that_is_mounted_is_home_and_otherwise_tmp_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setenv("LOGNAME", "me")
    assert _environment(_worker(mounts=["/home"]))["HOME"] == "/home/me"
    environment = _environment(_worker(mounts=["/home/meyer"]))
    assert (environment["HOME"], environment["USER"], environment["LOGNAME"]) == (
        "/tmp",
        "me",
        "me",
    )


# -- users and Pod Security --


def test_pods_run_as_the_client_with_its_groups() -> None:
    context = _pod()["securityContext"]
    assert (context["runAsUser"], context["runAsGroup"]) == (os.getuid(), os.getgid())
    assert context["supplementalGroups"] == sorted(os.getgroups())
    assert context["runAsNonRoot"] is (os.getuid() != 0)


@pytest.mark.parametrize("run_as", ["4711:4712", (4711, 4712), [4711, 4712], ("4711", "4712")])
def test_pods_run_as_somebody_else_without_the_clients_groups(run_as: object) -> None:
    context = _pod(run_as=run_as)["securityContext"]
    assert (context["runAsUser"], context["runAsGroup"]) == (4711, 4712)
    assert "supplementalGroups" not in context


def test_run_as_none_leaves_the_user_to_the_cluster() -> None:
    context = _pod(run_as=None, mounts=[{"claim": "a", "path": "/a"}])["securityContext"]
    assert context == {"seccompProfile": {"type": "RuntimeDefault"}, "runAsNonRoot": True}


def test_files_of_claims_alone_are_given_to_the_group() -> None:
    assert "fsGroup" not in _pod(run_as="4711:4712", mounts=["/data"])["securityContext"]
    context = _pod(run_as="4711:4712", mounts=[{"claim": "a", "path": "/a"}])["securityContext"]
    assert (context["fsGroup"], context["fsGroupChangePolicy"]) == (4712, "OnRootMismatch")


@pytest.mark.parametrize("run_as", ["4711:4712", None])
def test_without_host_paths_and_root_pods_are_restricted_ones(run_as: object) -> None:
    """https://kubernetes.io/docs/concepts/security/pod-security-standards/#restricted"""
    pod = _pod(
        run_as=run_as,
        mounts=[{"claim": "a", "path": "/project"}],
        shm_size="1Gi",
        directories=("/project/a",),
    )
    assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod)
    kinds = {kind for volume in pod["volumes"] for kind in volume if kind != "name"}
    assert kinds <= {"persistentVolumeClaim", "emptyDir"}
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"].get("runAsUser") != 0
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    (container,) = pod["containers"]
    context = container["securityContext"]
    assert context == {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}


def test_root_may_be_asked_for() -> None:
    context = _pod(run_as="0:0")["securityContext"]
    assert (context["runAsUser"], context["runAsNonRoot"]) == (0, False)


# -- names --


@pytest.mark.parametrize("count", [1, 10, 11, 1000, 100_000])
@pytest.mark.parametrize(
    "name",
    [
        "call",
        "A_Function.of<locals>",
        "x" * 200,
        "-",
        "",
        "---a---",
        "größe",
        "İstanbul",
        "日本語",
        "a" * 38 + "-" * 30,
        "0",
        "a/b c\nd",
    ],
)
def test_a_jobs_name_with_an_index_is_a_dns_label_that_ends_with_the_token(
    name: str, count: int
) -> None:
    chosen = job_name(name, TOKEN, count)
    pod = f"{chosen}-{count - 1}"
    assert re.fullmatch(DNS_LABEL, pod), pod
    assert len(pod) <= 63
    assert chosen.endswith("-0a1b2c3d-12-345-6")


def test_of_a_long_name_as_much_stands_there_as_there_is_room() -> None:
    chosen = job_name("x" * 200, TOKEN, 1000)
    assert len(f"{chosen}-999") == 63


def test_a_name_that_can_be_read_is_the_users() -> None:
    assert job_name("My_Function", TOKEN, 3) == "my-function-0a1b2c3d-12-345-6"
    assert job_name("日本語", TOKEN, 3) == "call-0a1b2c3d-12-345-6"


@pytest.mark.parametrize("length", range(40, 62))
def test_a_token_of_any_length_is_never_cut(length: int) -> None:
    token = "a" * length
    for name in ("", "call"):
        chosen = job_name(name, token, 10)
        assert token in chosen
        assert len(f"{chosen}-9") <= 63
        assert re.fullmatch(DNS_LABEL, chosen)


# -- templates --


def test_merged_lays_dicts_on_each_other_by_key() -> None:
    base = {"a": {"b": 1, "c": 2}, "d": [1, 2], "e": 1}
    over = {"a": {"c": 3, "x": 4}, "d": [3], "f": None}
    assert merged(base, over) == {"a": {"b": 1, "c": 3, "x": 4}, "d": [3], "e": 1, "f": None}
    assert base == {"a": {"b": 1, "c": 2}, "d": [1, 2], "e": 1}


def test_merged_lays_lists_of_what_has_a_name_on_each_other_by_name() -> None:
    base = {"containers": [{"name": "worker", "image": "a", "env": [{"name": "A", "value": "1"}]}]}
    over = {
        "containers": [
            {"name": "side", "image": "s"},
            {"name": "worker", "env": [{"name": "B", "value": "2"}, {"name": "A", "value": "3"}]},
        ]
    }
    assert merged(base, over) == {
        "containers": [
            {
                "name": "worker",
                "image": "a",
                "env": [{"name": "A", "value": "3"}, {"name": "B", "value": "2"}],
            },
            {"name": "side", "image": "s"},
        ]
    }


def test_a_template_is_laid_on_the_pods() -> None:
    template: dict[str, Any] = {
        "metadata": {"labels": {"queue": "q"}},
        "spec": {
            "hostNetwork": True,
            "restartPolicy": "Never",
            "containers": [
                {"name": WORKER_CONTAINER, "resources": {"limits": {"cpu": "4"}}},
                {"name": "side", "image": "s"},
            ],
            "volumes": [{"name": "tmp", "emptyDir": {}}],
        },
    }
    job = _job(pod_template=template, cpu=2)
    pod = job["spec"]["template"]
    assert pod["metadata"]["labels"] == {SESSION_LABEL: "0a1b2c3d", "queue": "q"}
    assert pod["spec"]["hostNetwork"] is True
    assert [c["name"] for c in pod["spec"]["containers"]] == [WORKER_CONTAINER, "side"]
    worker = pod["spec"]["containers"][0]
    assert worker["image"] == IMAGE
    assert worker["resources"] == {"requests": {"cpu": "2"}, "limits": {"cpu": "4"}}
    assert [volume["name"] for volume in pod["spec"]["volumes"]] == ["host-0", "tmp"]


def test_a_template_may_mount_one_volume_at_two_places() -> None:
    two = [
        {"name": "cache", "mountPath": "/a", "subPath": "a"},
        {"name": "cache", "mountPath": "/b", "subPath": "b"},
    ]
    template = {"spec": {"containers": [{"name": WORKER_CONTAINER, "volumeMounts": two}]}}
    mounts = _worker(pod_template=template)["volumeMounts"]
    assert [mount for mount in mounts if mount["name"] == "cache"] == two


def test_a_template_can_move_a_mount_of_ours() -> None:
    """Kubernetes' own merge key of mounts is their path."""
    mine = {"name": "other", "mountPath": "/work"}
    template = {"spec": {"containers": [{"name": WORKER_CONTAINER, "volumeMounts": [mine]}]}}
    mounts = _worker(pod_template=template)["volumeMounts"]
    assert len([mount for mount in mounts if mount["mountPath"] == "/work"]) == 1


def test_a_template_whose_containers_have_no_name_is_an_error_that_names_the_key() -> None:
    with pytest.raises(ValueError, match="pod_template"):
        _job(pod_template={"spec": {"containers": [{"image": "other"}]}})


def test_what_the_user_gave_is_not_changed() -> None:
    container: dict[str, Any] = {"name": WORKER_CONTAINER, "env": []}
    template = {"spec": {"containers": [container]}}
    given = {"image": IMAGE, "pod_template": template, "labels": {"a": "b"}}
    resources = parse_resources(given)
    template["spec"]["containers"].clear()
    assert resources.pod_template["spec"]["containers"]
    assert given["labels"] == {"a": "b"}
