"""How far an executor is on its way to its end.

The session alone moves it on; all of its parts look at it.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Lifecycle:
    """Each of these is set once, and never taken back. Reading and setting one takes no lock."""

    # It takes no more calls.
    closed: bool = False
    # What is not known to run is cancelled.
    cancelling: bool = False
    # It ends at once, whatever runs.
    aborted: bool = False
    # Then: its jobs are being cancelled, as far as they are to be.
    stop_begun: bool = False
    # Then: its jobs go on without this client, and need their files.
    leaves_jobs: bool = False
    # All calls are done or abandoned; the threads come to their ends.
    ending: bool = False

    @property
    def begins_nothing(self) -> bool:
        return self.aborted or self.cancelling or self.ending
