"""Endings of a job's process that several schedulers have in common, as sentences for users."""

from __future__ import annotations

from cluster_tools.format.exit_codes import EXIT_NO_ARRAY
from cluster_tools.schedulers.base import Cause, Ending

# Exit codes of a shell if the command can't be executed (126) or is not found (127).
_NO_COMMAND = (126, 127)


def log_not_written(on_node: str, look: str) -> Ending:
    """The job could not open its log. Arguments as in `process_ended`."""
    return Ending(
        Cause.NEVER_STARTED,
        f"The log could not be written{on_node}: its directory has to be on a disk that the nodes "
        "share with this machine.",
        look,
    )


def process_ended(
    exit_code: int | None, signal: int, on_node: str, look: str, word: str = ""
) -> Ending:
    """The job's process has ended.

    Arguments:
        exit_code: None if it is not known.
        signal: The number of the signal that has ended the process; 0 if none has.
        on_node: " on node NAME"; "" if the node is not known.
        look: A sentence that says where the user finds more.
        word: The scheduler's own word for the ending; "" if it has none.
    """
    if exit_code in _NO_COMMAND:
        return Ending(
            Cause.NEVER_STARTED,
            f"There is no such Python{on_node} (exit code {exit_code}): python_executable and "
            "command_prefix have to be right on the nodes.",
            look,
        )
    if signal == 9 or exit_code == 137:
        return Ending(Cause.EXIT, f"The process was killed (signal 9){on_node}.", look)
    if signal:
        return Ending(Cause.EXIT, f"The process was ended by signal {signal}{on_node}.", look)
    if exit_code == EXIT_NO_ARRAY:  # the log, if there is one, says more
        return Ending(
            Cause.EXIT,
            f"The process ended with exit code {exit_code}{on_node}, as a worker does that has no "
            "run directory: cfut_dir has to be on a disk that nodes and client share.",
            look,
            exit_code=exit_code,
        )
    with_code = "" if exit_code is None else f" with exit code {exit_code}"
    in_words = f" ({word})" if word else ""
    return Ending(
        Cause.EXIT, f"The process ended{with_code}{on_node}{in_words}.", look, exit_code=exit_code
    )
