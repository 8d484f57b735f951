"""Calls an executor's `initializer` in this process: once, before the first call.

Knows functions and exceptions, no executors and no futures.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

_NOTE = "The executor's initializer {} raised this: no call is begun in this process."


class Initialization:
    """Calls an initializer, if it was not called yet, and keeps its exception.

    Arguments:
        initializer: Called without arguments. None: there is none.
        name: Its name, for messages.
    """

    def __init__(self, initializer: Callable[[], object] | None, name: str) -> None:
        self.name = name
        self._initializer = initializer
        self._failure: BaseException | None = None
        # Reentrant, since an initializer may itself submit a call.
        self._lock = threading.RLock()

    @property
    def has_failed(self) -> bool:
        """Whether the initializer was called and has raised."""
        return self._failure is not None

    def ensure(self) -> None:
        """Calls the initializer, if it was not called yet; other threads wait.

        Raises:
            BaseException: What the initializer raised, now or earlier. Only after a
                KeyboardInterrupt, which is meant for the program, it is called again.
        """
        with self._lock:
            initializer, self._initializer = self._initializer, None
            if initializer is not None:
                try:
                    initializer()
                except KeyboardInterrupt:
                    self._initializer = initializer
                    raise
                except BaseException as error:
                    _add_note(error, _NOTE.format(self.name))
                    self._failure = error
            if self._failure is not None:
                raise self._failure.with_traceback(None)


def _add_note(error: BaseException, note: str) -> None:
    try:  # add_note is of Python 3.11; an exception may refuse attributes
        error.__notes__ = [*getattr(error, "__notes__", ()), note]  # type: ignore[attr-defined]
    except Exception:
        pass
