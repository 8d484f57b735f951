"""Promises on what is shown of a job's log."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from cluster_tools.cluster import logs
from support.waiting import LIMIT_S, wait_until


def test_a_line_that_comes_in_two_pieces_has_one_prefix(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = tmp_path / "log"
    log.write_text("one\ntw")
    done = threading.Event()
    thread = threading.Thread(target=logs.follow, args=(str(log), "(7) ", done.is_set, 0.0))
    thread.start()
    shown: list[str] = []

    def shows(text: str) -> bool:
        shown.append(capsys.readouterr().out)
        return "".join(shown) == text

    wait_until(lambda: shows("(7) one\ntw"), "the first piece")
    with log.open("a") as file:
        file.write("o\n")
    wait_until(lambda: shows("(7) one\ntwo\n"), "the second")
    with log.open("a") as file:
        file.write("three\n")
    done.set()
    thread.join(LIMIT_S)
    assert shows("(7) one\ntwo\n(7) three\n")
