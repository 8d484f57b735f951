"""Measures calls in the process that runs them: start, end, CPU time and memory.

    meter = Meter()            once in a process
    began = meter.begin()      before each call
    used = meter.end(began)    after the call

getrusage(2) takes two microseconds, which is much for a call that does nothing. So after a call of
less than one millisecond, it is used only if its last result is more than ten milliseconds old. The
CPU time of a short call is therefore exact to ten milliseconds, and the sum for many is exact.
Workers import this module when they start, so it imports very little itself.
"""

from __future__ import annotations

import os
import sys
from time import monotonic_ns, process_time_ns, time_ns

TYPE_CHECKING = False  # `typing` costs as much as all the rest
if TYPE_CHECKING:
    # When a call began, by time_ns and by monotonic_ns, and the CPU time of its process until then.
    # All in nanoseconds.
    Beginning = tuple[int, int, int]
    # The start and the end of a call since the epoch, and its CPU time, all in nanoseconds; the
    # largest resident set of its process so far, in bytes (0 on Windows, where it is not known).
    Used = tuple[int, int, int, int]

# The usage is always read after a call that took longer.
_BRIEF_NS = 1_000_000
# For how long the usage that was read last is used again.
_FRESH_NS = 10_000_000
_NS_PER_S = 1_000_000_000
# The unit of `ru_maxrss` in getrusage(2): kibibytes on Linux, bytes on macOS.
_MEMORY_UNIT_BYTES = 1 if sys.platform == "darwin" else 1024


class Meter:
    """Measures the calls of this process.

    If calls overlap in time, each gets the CPU time that all of them have used.
    """

    def __init__(self) -> None:
        self._read_at_ns = 0
        self._cpu_ns = 0
        self._peak_bytes = 0
        self._faults = -1
        # On Linux, `ru_maxrss` includes the program that ran in this process before an exec: the
        # worker of a large client seems to be as large as the client. A value up to this one may
        # come from there, so the value from /proc is used instead.
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
        """Returns the argument for `end`. Called immediately before the call."""
        now = monotonic_ns()
        if now - self._read_at_ns > _FRESH_NS:
            self._read(now)
        return time_ns(), now, self._cpu_ns

    def end(self, beginning: Beginning) -> Used:
        """Returns what the call has used. Called immediately after the call.

        The end is the start plus the duration, even if the system's clock was set meanwhile.
        """
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
        peak_bytes = own.ru_maxrss * _MEMORY_UNIT_BYTES
        if peak_bytes > self._inherited_bytes:
            self._peak_bytes = peak_bytes
        elif self._faults != (faults := own.ru_minflt + own.ru_majflt):
            # Without a page fault the process has not grown, and the file need not be read again.
            self._faults = faults
            self._peak_bytes = _high_water_bytes()


def _high_water_bytes() -> int:
    """The largest resident set of the program in this process, in bytes; 0 if it is not known.

    Only Linux tells it: VmHWM in https://docs.kernel.org/filesystems/proc.html
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
