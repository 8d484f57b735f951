"""A disk of 2 MB that Slurm's jobs share, and how a disk is filled."""

from __future__ import annotations

import shutil
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def directory_for(test: Path) -> Generator[Path]:
    """A directory there, named as that of the test."""
    directory = Path("/tiny", test.name)
    directory.mkdir()
    yield directory
    shutil.rmtree(directory)


def fill(directory: Path, left_over: int = 0) -> Path:
    """Makes a file of all the room that is left, but for so many bytes."""
    filler = directory / "filler"
    with filler.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            file.truncate(file.tell() - left_over)
    return filler
