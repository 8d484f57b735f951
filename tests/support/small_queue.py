"""A queueing system as small as can be, by the commands `put`, `list`, `past` and `drop`.

The class has what each subclass of `QueueingScheduler` needs, and nothing else. It lies outside the
package, like a scheduler that another package brings.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

from cluster_tools.schedulers.base import (
    ArrayRequest,
    Cause,
    Element,
    Ending,
    Refused,
    RefusedForCount,
    RefusedForSize,
    Report,
    SchedulerError,
    State,
)
from cluster_tools.schedulers.commands import read_ranges
from cluster_tools.schedulers.queueing import (
    JobTraits,
    QueueingScheduler,
    QueueRow,
    Record,
    job_name,
)


class SmallQueueScheduler(QueueingScheduler):
    """One executor's connection to this system."""

    prefix = "small"
    system = "Small Queue"
    accounting = "past"
    where_missing = "is it installed?"
    variables: Mapping[str, str] = {"LC_ALL": "C"}
    job = JobTraits("$ID", "$INDEX", "0", own_variables={"ID", "INDEX"}, warning="TERM")
    job_id_pattern = re.compile(r"^job (\d+)$", re.MULTILINE)
    unreachable_words = re.compile("no answer")
    not_arrived_words = re.compile("no answer to hello")
    refusals: Mapping[int | str, type[SchedulerError]] = {
        7: RefusedForCount,
        "too large": RefusedForSize,
        "never": Refused,
    }
    accounting_patience_s = 0.0

    def submit_command(self, request: ArrayRequest) -> list[str]:
        return ["put", job_name(request), str(request.count)]

    def queue(self) -> Iterator[QueueRow]:
        for line in self.run("list").splitlines():
            job_id, name, state, indexes = line.split()
            yield QueueRow(job_id, name, state, read_ranges(indexes))

    def report(self, row: QueueRow) -> Report:
        return Report(State.RUNNING if row.state == "runs" else State.PENDING, row.state)

    def script_path(self, job_id: str) -> str:
        return self.run("list", job_id).strip()

    def records(self, job_id: str) -> Iterator[Record]:
        for line in self.run("past", job_id).splitlines():
            _, name, code, index = line.split()
            yield Record(Element(job_id, int(index)), name, code, {"code": code})

    def ending(self, record: Record) -> Ending:
        return Ending(Cause.EXIT, "It ended.", exit_code=int(record.fields["code"]))

    def element_ids(self, job_id: str, first: int, last: int) -> str:
        return f"{job_id}[{first}-{last}]"

    def delete(self, ids: Sequence[str]) -> None:
        self.run("drop", *ids)

    def max_array_size(self) -> int | None:
        return None

    def max_submitted(self) -> int | None:
        return None
