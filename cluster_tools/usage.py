"""Measures calls in the process that runs them: their times, CPU time and memory.

    meter = Meter()            once in a process
    began = meter.begin()      before each call
    used = meter.end(began)    after it

The kernel needs two microseconds to tell what a process has used, which is much beside a call that
does nothing. So after calls of less than a millisecond it is asked once in ten: CPU times are right
to these ten milliseconds, and those of shorter calls in their sum. Workers import this when they
start: it imports next to nothing itself.
"""

from __future__ import annotations

import os
import sys
from time import monotonic_ns, process_time_ns, time_ns

TYPE_CHECKING = False  # `typing` costs as much as all the rest
if TYPE_CHECKING:
    # When a call began, by the clocks that tell the date and durations, and the CPU time of its
    # process until then. All in nanoseconds.
    Beginning = tuple[int, int, int]
    # Start and end of a call since the epoch and its CPU time, in nanoseconds; the greatest
    # resident set of its process so far, in bytes: 0 where the system does not tell (Windows).
    Used = tuple[int, int, int, int]

# A call that took longer is measured by itself.
_BRIEF_NS = 1_000_000
# What was read before is good for so long.
_FRESH_NS = 10_000_000
_NS_PER_S = 1_000_000_000
# getrusage(2): Linux counts resident sets in kibibytes, macOS in bytes.
_MEMORY_UNIT_BYTES = 1 if sys.platform == "darwin" else 1024


class Meter:
    """Measures the calls of this process. Calls that overlap each get what all of them used."""

    def __init__(self) -> None:
        self._read_at_ns = 0
        self._cpu_ns = 0
        self._peak_bytes = 0
        # Up to this size, getrusage tells of the program that ran in this process before an `exec`:
        # on Linux a worker that a large client has started seems to be as large. Then /proc is
        # asked.
        self._inherited_bytes = 0
        try:
            import resource
        except ImportError:  # Windows
            self._resource = None
        else:
            self._resource = resource
        self._read(monotonic_ns())
        high_water_bytes = _high_water_bytes()
        if 0 < high_water_bytes < self._peak_bytes:
            self._inherited_bytes, self._peak_bytes = self._peak_bytes, high_water_bytes

    def begin(self) -> Beginning:
        """What `end` is to be given."""
        now = monotonic_ns()
        if now - self._read_at_ns > _FRESH_NS:
            self._read(now)
        return time_ns(), now, self._cpu_ns

    def end(self, beginning: Beginning) -> Used:
        """What the call has used. It never ends before it began, even if the clock was set back."""
        started_ns, began_ns, cpu_ns = beginning
        now = monotonic_ns()
        took_ns = now - began_ns
        if took_ns > _BRIEF_NS or now - self._read_at_ns > _FRESH_NS:
            self._read(now)
        return started_ns, started_ns + took_ns, self._cpu_ns - cpu_ns, self._peak_bytes

    def _read(self, now: int) -> None:
        self._read_at_ns = now
        if self._resource is None:
            self._cpu_ns = process_time_ns()
            return
        usage = self._resource.getrusage
        own, children = usage(self._resource.RUSAGE_SELF), usage(self._resource.RUSAGE_CHILDREN)
        cpu_s = own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime
        self._cpu_ns = int(cpu_s * _NS_PER_S)
        self._peak_bytes = own.ru_maxrss * _MEMORY_UNIT_BYTES
        if self._peak_bytes <= self._inherited_bytes:
            self._peak_bytes = _high_water_bytes()


def _high_water_bytes() -> int:
    """The greatest resident set of the program that runs here, where Linux tells it; else 0.

    VmHWM in https://docs.kernel.org/filesystems/proc.html
    """
    try:
        fd = os.open("/proc/self/status", os.O_RDONLY | os.O_CLOEXEC)
        try:
            status = os.read(fd, 4096)
        finally:
            os.close(fd)
        return int(status.partition(b"VmHWM:")[2].split(None, 1)[0]) * 1024
    except (OSError, AttributeError, IndexError, ValueError):
        return 0
