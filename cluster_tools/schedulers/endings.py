"""Endings of a job's process that several schedulers have in common, as sentences for users."""

from __future__ import annotations

from cluster_tools.format.exit_codes import EXIT_NO_ARRAY
from cluster_tools.schedulers.base import Cause, Element, Ending

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


def forgotten(element: Element, system: str, accounting: str) -> Ending:
    """The scheduler does not know the element any more, and there is no record of its end.

    `system`: the scheduler's name. `accounting`: the command that has been asked for a record.
    """
    return Ending(
        Cause.LOST,
        f"{system} does not know job {element} any more, there is no output, and {accounting} has "
        "no record: somebody has deleted it before it began, or the master has lost it.",
        "Look at its log, and submit the call again if its work is not done.",
    )


def out_of_memory(asked: str, used: str, example: str, on_node: str, look: str) -> Ending:
    """The job has used more memory than it asked for. Other arguments as in `process_ended`.

    `asked`: the resource, as "h_vmem=4G". `used`: how much it has used. `example`: a value of
    `job_resources` that asks for more.
    """
    return Ending(
        Cause.OUT_OF_MEMORY,
        f"The job ran out of memory{on_node}: asked for {asked}, used {used}.",
        f"Ask for more, for example with job_resources={example}. {look}",
    )


def out_of_time(asked: str, ran_s: float, example: str, on_node: str, look: str) -> Ending:
    """The job has reached its time limit after `ran_s` seconds. Arguments as above."""
    return Ending(
        Cause.TIME_LIMIT,
        f"The job reached its limit of {asked}{on_node}: it ran for {ran_s} s.",
        f"Ask for more, for example with job_resources={example}. {look}",
    )
