"""Wakes the pool's thread, with a system call only where that thread has not been woken already.

Knows the standard library's pipe for that, and nothing of why the thread is woken.
"""

from __future__ import annotations

from concurrent.futures.process import _ThreadWakeup  # pyright: ignore[reportPrivateUsage]


class ThreadWakeup(_ThreadWakeup):
    """A wakeup that was made by the pool.

    `clear` is called by the woken thread before it looks for what there is to do. So a `wakeup`
    before the end of `clear` needs no byte of its own in the pipe.
    """

    # Whether a byte is in the pipe, or will be.
    _is_signalled = False

    def wakeup(self) -> None:
        if self._is_signalled:
            return
        try:
            self._is_signalled = True
            super().wakeup()  # pyright: ignore
        except BaseException:  # Ctrl-C: perhaps before the byte was written
            self._is_signalled = False
            raise

    def clear(self) -> None:
        if self._is_signalled:
            super().clear()  # pyright: ignore
            self._is_signalled = False
