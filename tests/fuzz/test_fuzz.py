"""A minute of each fuzzer. The seed is the day: each has other programs, the same ones all day."""

from __future__ import annotations

from datetime import datetime, timezone
from pathlib import Path

import pytest

from fuzz import rounds

_SECONDS = 60.0
# The last round begins before these are over, and may stand still for a while.
_LIMIT_S = _SECONDS + 240.0


@pytest.mark.timeout(_LIMIT_S)
@pytest.mark.parametrize(
    "strategy",
    [
        "multiprocessing",
        "local",
        "local-pilots",
        pytest.param("slurm", marks=pytest.mark.slurm),
        pytest.param("slurm-pilots", marks=pytest.mark.slurm),
    ],
)
def test_a_minute_of_random_programs_keeps_all_promises(strategy: str, tmp_path: Path) -> None:
    seed = f"{datetime.now(timezone.utc):%Y-%m-%d}"
    for failure in rounds.failures(strategy, seed, _SECONDS, directory=tmp_path):
        pytest.fail(failure, pytrace=False)
