"""Reads what the run directory and the output store have of a task.

    output in the run directory, output store --> complete() --> Outcome
    output store -------------------------------> kept() ------> Outcome
    run directory, the scheduler's Ending ------> evidence() --> Evidence, for verdicts.decide()

It draws no conclusions. Only the resolver's thread uses it.
"""

from __future__ import annotations

import logging
import os
from typing import Any

from cluster_tools import own_files
from cluster_tools.cluster.run_directory import (
    Outcome,
    OutputNotReadable,
    RunDirectory,
    stored_outcome,
)
from cluster_tools.cluster.tasks import Job
from cluster_tools.cluster.verdicts import Evidence, may_be_by_a_signal
from cluster_tools.format import outputs, run_files
from cluster_tools.function_name import exception_text
from cluster_tools.output_store import FileOutputStore, OutputStore
from cluster_tools.schedulers.base import Ending

_logger = logging.getLogger("cluster_tools")


class StoreError(Exception):
    """The output store has no usable output of the call.

    It has another call's output, or it raised an exception that is no OSError. An OSError may pass,
    so then the store is asked again.
    """


class Outcomes:
    """The outputs of one executor's tasks, and the evidence about tasks without an output."""

    def __init__(self, directory: RunDirectory, store: OutputStore):
        self._directory = directory
        self._store = store

    def complete(self, outcome: Outcome, key: str | None) -> Outcome:
        """Returns the outcome, from the store if its record says that the store has the output.

        Raises: OutputNotReadable; StoreError.
        """
        if not outcome.record["stored"]:
            return outcome
        assert key is not None
        return self._stored(key, outcome.record)

    def _stored(self, key: str, record: dict[str, Any]) -> Outcome:
        try:
            output = self._store.read(key)
        except OSError as exc:
            raise OutputNotReadable(str(exc)) from exc
        except Exception as exc:
            raise StoreError(f"the output store can't read {key!r}: {exception_text(exc)}") from exc
        if record["stored"] != outputs.digest(output):
            raise StoreError(
                f"what is kept under the key {key!r} is not this call's output: another call has "
                "written to the same key"
            )
        return stored_outcome(output, record)

    def kept(self, key: str, where: object) -> Outcome | None:
        """Looks in the store for an output of which the run directory has no record.

        A job that dies after it has written to the store leaves such an output.
        `where`: names the task, for the log. Returns: None if there is no output.
        Raises: OSError, if the store can't be asked now.
        """
        store = self._store
        try:
            if key not in store.poll([key]):
                return None
            if isinstance(store, FileOutputStore):  # without a digest, check the file's owner
                output = store.read_own(key, {self._directory.owner, os.geteuid()})
            else:
                output = store.read(key)
            return stored_outcome(output, {})
        except OSError:
            raise
        except Exception as exc:
            _logger.warning("The store can't tell about %s: %s", where, exc)
            return None

    def evidence(self, job: Job, position: int, ending: Ending) -> Evidence:
        """What the run directory and `ending` say about a task whose element has ended.

        Raises: OSError; NotOurs.
        """
        directory = self._directory
        task = job.array.first + position
        element = str(job.element(position))
        is_gone = not own_files.is_there(directory.path)
        claims = directory.claims(task)
        return Evidence(
            ending,
            element,
            job.submission,
            claim=claims[-1] if claims else None,
            has_left=not claims
            and not is_gone
            and directory.has_left(task, job.submission, element),
            is_interrupted=may_be_by_a_signal(ending)
            and own_files.is_there(
                os.path.join(directory.shard(task), run_files.interrupted_name(task))
            ),
            directory_is_gone=is_gone,
            is_pilot=job.array.runs_pilots,
        )
