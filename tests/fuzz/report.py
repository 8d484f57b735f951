"""What one round has to complain about, and the watch that ends one which stands still."""

from __future__ import annotations

import faulthandler
import os
import sys
import threading
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from support.waiting import wait_until

# How long a result may be on its way while nothing else goes wrong; a fault comes on top.
LIMIT_S = 60.0
# More than what a program waits for, so that it says itself what it has waited for.
_STANDSTILL_S = LIMIT_S + 15


class Report:
    """`directory`: for the complaints of the round, and the stacks of one that stands still."""

    def __init__(self, directory: Path):
        self._directory = directory
        self.troubles: list[str] = []
        self._last_event = time.monotonic()
        self._over = threading.Event()

    def trouble(self, text: str) -> None:
        self.troubles.append(text)

    def touch(self) -> None:
        """Something has happened: from here on the time until a standstill counts anew."""
        self._last_event = time.monotonic()

    def complaints(self) -> list[str]:
        return self.troubles

    @contextmanager
    def watching(self) -> Generator[None]:
        """Watches the round in the block, and writes its complaints afterwards."""
        threading.excepthook = self._note_thread
        sys.unraisablehook = self._note_unraisable
        threading.Thread(target=self._watch, name="watch", daemon=True).start()
        yield
        self._over.set()
        self._write(self.complaints())

    def look_for(self, looks: Mapping[str, Callable[[], object]]) -> None:
        """Complains of each look that still returns something after a while."""
        for name, look in looks.items():
            self.touch()
            try:
                wait_until(lambda look=look: not look(), name)
            except TimeoutError:
                self.trouble(f"nothing is left in the end, but {name}: {look()}")

    def _watch(self) -> None:
        while not self._over.wait(1.0):
            if time.monotonic() > self._last_event + _STANDSTILL_S:
                with open(self._directory / "stacks", "w") as file:
                    faulthandler.dump_traceback(file)
                self.trouble(f"it comes to an end, but nothing happens for {_STANDSTILL_S} s")
                self._write(self.complaints())
                os._exit(0)

    def _write(self, complaints: list[str]) -> None:
        text = "".join(f"- {line}\n" for line in complaints)
        (self._directory / "complaints").write_text(text)

    def _note_thread(self, args: threading.ExceptHookArgs) -> None:
        name = "?" if args.thread is None else args.thread.name
        self.trouble(f"no thread dies, but {name} has ended with {args.exc_value!r}")

    def _note_unraisable(self, args: Any) -> None:
        if not isinstance(args.exc_value, KeyboardInterrupt):  # ours, where it can go nowhere
            self.trouble(f"{args.err_msg} {args.object!r}: {args.exc_value!r}")
