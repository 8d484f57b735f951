"""The Grid Engine of the tests: whether there is one, and what tests ask it."""

from __future__ import annotations

import shutil
import subprocess
import xml.etree.ElementTree as ET
from collections import defaultdict

from support.waiting import LIMIT_S

# The queues of tests/gridengine/cluster/up.
RESOURCES = {"q": "all.q"}
NARROW_RESOURCES = {"q": "narrow.q"}
ODD_RESOURCES = {"q": "odd.q"}  # its configuration is changed

_PROBE_LIMIT_S = 20


def reason_against() -> str | None:
    """Why jobs cannot be submitted here, None where they can."""
    if shutil.which("qconf") is None:
        return "there is no qconf on PATH"
    try:
        asked = subprocess.run(
            ["qconf", "-sss"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_PROBE_LIMIT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"there is a qconf, but it fails: {error}"
    if asked.returncode == 0:
        return None
    words = (asked.stdout + asked.stderr).strip().splitlines()
    return f"there is a qconf, but no master answers: {words[-1] if words else 'no output'}"


def run(*words: str) -> str:
    """What a command prints. Raises: CalledProcessError."""
    return subprocess.run(
        words,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        timeout=LIMIT_S,
        check=True,
    ).stdout


def elements() -> dict[str, list[str]]:
    """Our elements in the queue, `<jobid>.<task>`, by their jobs."""
    found: defaultdict[str, list[str]] = defaultdict(list)
    for job in ET.fromstring(run("qstat", "-xml", "-g", "d")).iter("job_list"):
        job_id, task = job.findtext("JB_job_number", ""), job.findtext("tasks", "")
        found[job_id].append(f"{job_id}{'.' if task else ''}{task}")
    return found


def script_of(job_id: str) -> str:
    """The path of a job's script; "" once the job has ended."""
    try:
        described = run("qstat", "-j", job_id)
    except subprocess.CalledProcessError:
        return ""
    lines = [line for line in described.splitlines() if line.startswith("script_file:")]
    return lines[0].partition(":")[2].strip() if lines else ""
