"""Reads from accounting (`qacct -j`) why elements have ended.

The manual pages accounting(5) and, for the field `failed`, sge_status(5) describe the fields. This
module knows text and runs no commands.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from cluster_tools.schedulers.base import Cause, Element, Ending
from cluster_tools.schedulers.endings import log_not_written, process_ended
from cluster_tools.schedulers.gridengine.options import seconds
from cluster_tools.schedulers.supervision import EXIT_NO_LOG

# Values of the field `failed`, see sge_status(5).
_FAILED_BY_LIMIT = 37
_FAILED_LATER = 100
_FAILED_WITH_NODE = (19, 21)
# If a signal ends a command, the shell's exit code is 128 plus the number of the signal, which is
# at most 64.
_MAX_SIGNALLED = 192


def accounted(text: str) -> Iterator[Mapping[str, str]]:
    """Yields the records that `qacct -j` prints, as field -> value, in the order of their ends."""
    for record in re.split(r"^=+$", text, flags=re.MULTILINE)[1:]:
        yield {
            name: value.strip()
            for name, _, value in (line.partition(" ") for line in record.strip().split("\n"))
        }


def ending(element: Element, record: Mapping[str, str] | None) -> Ending:
    """Why the element has ended. `record`: its last record in accounting; None if it has none."""
    task = "" if element.index is None else f" -t {element.index + 1}"
    look = f"`qacct -j {element.job_id}{task}` shows more."
    if record is None:
        return Ending(
            Cause.LOST,
            f"Grid Engine does not know job {element} any more, there is no output, and qacct has "
            "no record: somebody has deleted it before it began, or the master has lost it.",
            "Look at its log, and submit the call again if its work is not done.",
        )
    failed, code = _leading_number(record, "failed"), _leading_number(record, "exit_status")
    on_node = f" on node {record['hostname']}" if "hostname" in record else ""
    if failed == _FAILED_BY_LIMIT:
        return _limit_ending(record, on_node, look)
    if failed in _FAILED_WITH_NODE:
        return Ending(
            Cause.NODE_FAILURE, f"The job's node failed{on_node} ({record['failed']}).", look
        )
    if failed == _FAILED_LATER:
        return Ending(
            Cause.CANCELLED, f"The job was deleted{on_node}, or its script was killed.", look
        )
    if failed:
        return Ending(
            Cause.NEVER_STARTED,
            f"Grid Engine could not run the job{on_node} ({record['failed']}).",
            look,
        )
    if code == 0 and record.get("ru_minflt") == "0":  # accounting has no sign that anything ran
        return Ending(Cause.CANCELLED, f"The job was deleted by force{on_node} (qdel -f).", look)
    if code == EXIT_NO_LOG:
        return log_not_written(on_node, look)
    return process_ended(code, code - 128 if 128 < code <= _MAX_SIGNALLED else 0, on_node, look)


def _limit_ending(record: Mapping[str, str], on_node: str, look: str) -> Ending:
    """The element has reached a limit. Finds out which one, because Grid Engine does not say it."""
    limits = dict(re.findall(r"([hs]_\w+)=([^,\s]+)", record.get("category", "")))
    ran_s = _leading_number(record, "ru_wallclock")
    limit_s = seconds(limits.get("h_rt"))
    if "h_vmem" in limits and (limit_s is None or ran_s < limit_s):
        return Ending(
            Cause.OUT_OF_MEMORY,
            f"The job ran out of memory{on_node}: asked for h_vmem={limits['h_vmem']}, used "
            f"{record.get('maxvmem', 'more')}.",
            f'Ask for more, for example with job_resources={{"h_vmem": "8G"}}. {look}',
        )
    asked = f"h_rt={limits['h_rt']}" if "h_rt" in limits else "its queue (h_rt, h_cpu or h_vmem)"
    return Ending(
        Cause.TIME_LIMIT,
        f"The job reached its limit of {asked}{on_node}: it ran for {ran_s} s.",
        f'Ask for more, for example with job_resources={{"h_rt": "2:00:00"}}. {look}',
    )


def _leading_number(record: Mapping[str, str], name: str) -> int:
    """The number at the beginning of a field; 0 if there is none."""
    number = re.match(r"\d+", record.get(name, ""))
    return int(number.group()) if number else 0
