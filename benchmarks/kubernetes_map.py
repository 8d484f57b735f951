"""`map` on Kubernetes against what Kubernetes itself needs, and the requests that it costs.

In turns, in one run: a Job of N pods that run `true`, from its creation until it is Complete (watched); then
`get_executor("kubernetes")`, `map` of N calls to the last result; then what leaving `with` adds. For N = 1 and
50. Each begins once the pods of the one before are gone. Requests are counted in the API server's audit log, as
distinct audit ids of our user, where there is one: `--audit-log DIRECTORY/audit.log`.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import cluster_tools
from benchmarks.figures import show, show_head, show_machine, show_target
from benchmarks.tasks import identity

LIMIT_RATIOS = {1: 1.2, 50: 1.1}
LIMIT_LEAVING_S = 0.2
_NAMESPACE = "cluster-tools-benchmarks"
_PATIENCE_S = 300.0


def kubernetes_alone(api: Any, image: str, count: int) -> float:
    """Seconds from the creation of a Job until it is Complete."""
    import kubernetes.watch

    name = f"floor-{count}-{time.monotonic_ns()}"
    container = {"name": "worker", "image": image, "command": ["true"]}
    spec = {
        "completionMode": "Indexed",
        "completions": count,
        "parallelism": count,
        "template": {"spec": {"restartPolicy": "Never", "containers": [container]}},
    }
    began = time.perf_counter()
    api.create_namespaced_job(_NAMESPACE, {"metadata": {"name": name}, "spec": spec})
    watch = kubernetes.watch.Watch()
    events: Any = watch.stream(
        api.list_namespaced_job,
        _NAMESPACE,
        field_selector=f"metadata.name={name}",
        _request_timeout=_PATIENCE_S,
    )
    for event in events:
        conditions = event["object"].status.conditions or []
        if any(c.type == "Complete" and c.status == "True" for c in conditions):
            watch.stop()
            break
    seconds = time.perf_counter() - began
    api.delete_namespaced_job(name, _NAMESPACE, propagation_policy="Background")
    return seconds


def through_us(resources: dict[str, Any], cfut_dir: str, count: int) -> tuple[float, float]:
    """Seconds from `get_executor` to the last result, and from there to the end of `with`."""
    began = time.perf_counter()
    with cluster_tools.get_executor(
        "kubernetes", job_resources=resources, cfut_dir=cfut_dir, keep_logs=False
    ) as executor:
        assert list(executor.map(identity, range(count))) == list(range(count))
        resolved = time.perf_counter()
    return resolved - began, time.perf_counter() - resolved


def wait_for_quiet(core: Any) -> None:
    deadline = time.monotonic() + _PATIENCE_S
    while core.list_namespaced_pod(_NAMESPACE).items:
        if time.monotonic() > deadline:
            sys.exit("the pods of the run before do not go away")
        time.sleep(0.2)


def requests_in(audit_log: Path, agent_start: str) -> Counter[str]:
    """Verb and resource of each request in the namespace by clients whose name begins so."""
    seen: dict[str, str] = {}
    for line in audit_log.read_text().splitlines():
        event = json.loads(line)
        reference = event.get("objectRef", {})
        if reference.get("namespace") == _NAMESPACE and event["userAgent"].startswith(agent_start):
            seen[event["auditID"]] = f"{event['verb']} {reference['resource']}"
    return Counter(seen.values())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--image", default="localhost/cluster-tools-tests:worker")
    parser.add_argument("--directory", default=".cfut", help="cfut_dir (default: .cfut)")
    parser.add_argument("--audit-log", type=Path)
    options = parser.parse_args()
    import kubernetes.client
    import kubernetes.config

    client = kubernetes.config.new_client_from_config()
    client.user_agent = "floor"
    core: Any = kubernetes.client.CoreV1Api(client)
    batch = kubernetes.client.BatchV1Api(client)
    try:
        core.create_namespace({"metadata": {"name": _NAMESPACE}})
    except kubernetes.client.ApiException as exc:
        if exc.status != 409:
            raise
    resources = {"image": options.image, "namespace": _NAMESPACE}
    show_machine()
    through_us(resources, options.directory, 1)  # warms the caches
    kubernetes_alone(batch, options.image, 1)
    for count, limit in LIMIT_RATIOS.items():
        floor: list[float] = []
        ours: list[float] = []
        leaving: list[float] = []
        for pair in range(options.pairs):
            for turn in (pair % 2, 1 - pair % 2):
                wait_for_quiet(core)
                if turn:
                    floor.append(kubernetes_alone(batch, options.image, count))
                else:
                    seconds, seconds_to_leave = through_us(resources, options.directory, count)
                    ours.append(seconds)
                    leaving.append(seconds_to_leave)
        show_head()
        show(f"a Job of {count} that run true, until Complete", floor, "s", 3)
        show(f"map of {count}, with making the executor", ours, "s", 3)
        ratios = [mine / theirs for mine, theirs in zip(ours, floor)]
        show("ratio of each pair", ratios, "", 2)
        show("leaving with", leaving, "s", 3)
        ratio = statistics.median(ours) / statistics.median(floor)
        show_target(f"ratio of the medians, {count} calls", ratio, limit, "", 2)
        show_target("median of leaving with", statistics.median(leaving), LIMIT_LEAVING_S, " s", 3)
    if options.audit_log is not None:
        counted = requests_in(options.audit_log, "cluster_tools/")
        executors = 1 + options.pairs * len(LIMIT_RATIOS)
        print(f"requests of {executors} executors with one Job each:")
        for what, number in sorted(counted.items()):
            print(f"    {what:<30} {number:5}  {number / executors:5.2f} an executor")
        each = sum(counted.values()) / executors
        show_target("requests of an executor with one Job", each, 13.0, "", 1)
