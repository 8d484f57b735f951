"""Promises on a job's interpreter: the client's flags, and what the job's own environment says."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from support import jobs
from support.clusters import WITH_CLIENTS_PYTHON, Cluster
from support.programs import Program
from support.waiting import LIMIT_S

_SAYS_FLAGS = """
    import concurrent.futures
    import sys

    sys.path[:0] = {path!r}
    import multiprocessing

    import cluster_tools

    def flags():
        return str(sys.flags), sys.warnoptions, sys._xoptions, __debug__

    if __name__ == "__main__":
        spawn = multiprocessing.get_context("spawn")
        with concurrent.futures.ProcessPoolExecutor(1, spawn) as pool:
            expected = pool.submit(flags).result()
        for pilots in ({{}}, {{"pilot_jobs": 1}}):
            with cluster_tools.get_executor({environment!r}, **{keywords!r}, **pilots) as executor:
                found = executor.submit(flags).result()
                print(found == expected, found, expected)
"""


@pytest.mark.parametrize(
    "flags",
    [
        "-O",
        "-OO -B -u",
        "-s -E -W error::UserWarning -W ignore::ImportWarning",
        "-W error -b",
        "-bb -X dev",
        "-X utf8=0 -X faulthandler",
        "-I",
        pytest.param(
            "-P", marks=pytest.mark.skipif(sys.version_info < (3, 11), reason="3.11 has it")
        ),
    ],
)
def test_jobs_get_the_flags_that_processes_of_the_standard_library_get(
    flags: str, cluster: Cluster, tmp_path: Path
) -> None:
    if cluster.environment == "kubernetes" and "-bb" in flags:
        pytest.skip("the official client of Kubernetes raises a BytesWarning")
    keywords = {**cluster.keywords, "cfut_dir": str(tmp_path / "cfut")}
    text = _SAYS_FLAGS.format(path=sys.path, environment=cluster.environment, keywords=keywords)
    words = [sys.executable, *flags.split()]
    with Program(tmp_path / "script.py", text, interpreter=words) as program:
        lines = program.succeed().splitlines()
    assert [line.partition(" ")[0] for line in lines] == ["True", "True"], lines


@pytest.fixture
def lib(tmp_path: Path) -> Path:
    lib = tmp_path / "lib"
    lib.mkdir()
    (lib / "only_there.py").write_text("def f(): return 'there'\n")
    return lib


@pytest.mark.parametrize("pilots", [{}, {"pilot_jobs": 1}], ids=["elements", "pilots"])
def test_what_a_set_up_line_adds_to_pythonpath_is_found(
    lib: Path, pilots: dict[str, Any], new_executor: Callable[..., Any]
) -> None:
    line = f'export PYTHONPATH="{lib}:$PYTHONPATH"'
    with new_executor(additional_setup_lines=[line], **pilots) as executor:
        assert executor.submit(jobs.imported, "only_there", "f").result() == "there"
        before, after = _around(executor.submit(jobs.module_path).result(), str(lib))
        assert not before  # in front of what the client has
        assert str(Path(jobs.__file__).parents[1]) in after


def _around(path: list[str], entry: str) -> tuple[list[str], list[str]]:
    at = path.index(entry)
    return path[:at], path[at + 1 :]


def test_what_a_command_prefix_adds_to_pythonpath_is_found(
    lib: Path, new_executor: Callable[..., Any]
) -> None:
    with new_executor(command_prefix=["env", f"PYTHONPATH={lib}"]) as executor:
        assert executor.submit(jobs.imported, "only_there", "f").result() == "there"


def test_an_empty_entry_of_pythonpath_does_not_put_the_working_directory_first(
    lib: Path, new_executor: Callable[..., Any]
) -> None:
    with new_executor(command_prefix=["env", f"PYTHONPATH={lib}:"]) as executor:
        path = executor.submit(jobs.module_path).result()
    assert path[0] == str(lib)
    assert path[1] == str(Path(sys.path[0]).absolute())


@pytest.mark.parametrize("cluster", WITH_CLIENTS_PYTHON, indirect=True)
def test_what_the_client_has_taken_from_its_path_stays_behind_the_rest(
    new_executor: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = next(entry for entry in sys.path if entry.endswith("-packages"))
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry != taken])
    with new_executor() as executor:
        path = executor.submit(jobs.module_path).result()
    assert path[: len(sys.path)] == [str(Path(entry).absolute()) for entry in sys.path]


@pytest.mark.parametrize("cluster", WITH_CLIENTS_PYTHON, indirect=True)
def test_another_environment_finds_what_its_pythonpath_has(
    lib: Path, tmp_path: Path, new_executor: Callable[..., Any]
) -> None:
    subprocess.run(
        [sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "other")],
        check=True,
        timeout=LIMIT_S,
    )
    with new_executor(
        python_executable=str(tmp_path / "other" / "bin" / "python"),
        command_prefix=["env", f"PYTHONPATH={lib}"],
    ) as executor:
        path = executor.submit(jobs.module_path).result()
        assert executor.submit(jobs.imported, "only_there", "f").result() == "there"
    assert path[0] == str(lib)
