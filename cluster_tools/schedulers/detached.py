"""Processes that nobody waits for: they go on when the client has ended."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence

# The shell ends at once, so that its child is no child of ours and leaves no zombie. It gives what runs in
# the background /dev/null for 0, whatever `<&0` says: stdin has to come by another number.
_IN_BACKGROUND = '{ "$@" <&3 3<&- >/dev/null 2>&1 & } 3<&0'


def start_detached(
    command: Sequence[str], *, stdin: str = "", environment: Mapping[str, str] | None = None
) -> None:
    """Starts a command in a session of its own. Raises: OSError, where there is no shell."""
    subprocess.run(
        ["/bin/sh", "-c", _IN_BACKGROUND, "cluster_tools", *command],
        input=stdin.encode(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=environment,
        start_new_session=True,
        check=False,
    )
