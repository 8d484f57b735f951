"""The flags that say how far an executor's shutdown has come.

Only the session sets them. All parts of the executor read them.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Lifecycle:
    """The flags of one executor's shutdown. Each is set once and never reset, without a lock."""

    # The executor takes no more calls.
    closed: bool = False
    # All calls that are not known to run are cancelled.
    cancelling: bool = False
    # The executor ends without waiting for its calls.
    aborted: bool = False
    # After `aborted`: the cancellation of its jobs has begun, unless they are to go on.
    stop_begun: bool = False
    # With `aborted`: its jobs go on without this client, so their files are kept.
    leaves_jobs: bool = False
    # All calls are done or abandoned, and the threads end.
    ending: bool = False

    @property
    def begins_nothing(self) -> bool:
        """Whether no task may be submitted or begun any more."""
        return self.aborted or self.cancelling or self.ending
