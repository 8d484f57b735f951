"""Promises to a program however Python was started: what the standard library's pool can do
there.
"""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import zipfile
from collections.abc import Sequence
from pathlib import Path

import pytest

from support.waiting import LIMIT_S

# Every function that a program calls stands in it and in a module beside it.
_FUNCTIONS = """
import concurrent.futures
import multiprocessing
import sys

import cluster_tools


class Pair:
    def __init__(self, left, right):
        self.left, self.right = left, right


class Special(Exception):
    pass


def swap(pair):
    assert isinstance(pair, Pair)
    return Pair(pair.right, pair.left)


def fail(value):
    raise Special(value)


def inner(number):
    return number + 1


def in_executor(method, fn):
    context = multiprocessing.get_context(method)
    with concurrent.futures.ProcessPoolExecutor(1, context) as pool:
        return pool.submit(fn, 1).result(40)


def in_pool(method, fn):
    with multiprocessing.get_context(method).Pool(1) as pool:
        return pool.map_async(fn, [1]).get(40)[0]


def nested(fn):
    with cluster_tools.get_executor("local", max_workers=1, keep_logs=False) as executor:
        return executor.submit(fn, 1).result()
"""
_MAIN = """
import neighbour


def main(*functions):
    print("begins")
    for keywords in ({"max_workers": 4}, {"pilot_jobs": 3}):
        with cluster_tools.get_executor("local", keep_logs=False, **keywords) as executor:
            swapped = executor.submit(swap, Pair(1, 2))
            failed = executor.submit(fail, 5)
            futures = [executor.submit(nested, inner)]
            futures += [
                executor.submit(call, method, fn)
                for method in ("spawn", "forkserver")
                for call in (neighbour.in_executor, neighbour.in_pool)
                for fn in functions
            ]
            assert type(swapped.result()) is Pair and swapped.result().left == 2
            assert isinstance(failed.exception(), Special), failed.exception()
            print(*(future.exception() or future.result() for future in futures))
"""
_GUARDED = """
if __name__ == "__main__":
    main(FUNCTIONS)
"""
_LINE = "2 2 2 2 2\n"
_ONE_FUNCTION = f"begins\n{_LINE}{_LINE}"
_TWO_FUNCTIONS = _ONE_FUNCTION.replace(_LINE, "2 2 2 2 2 2 2 2 2\n")

_PROGRAM = _FUNCTIONS + _MAIN + _GUARDED
# A class, a function of it and of its neighbour in spawned processes.
_SCRIPT = _PROGRAM.replace("FUNCTIONS", "inner, neighbour.inner")
# Where processes that the program starts can't import the program itself.
_NO_FILE = _PROGRAM.replace("FUNCTIONS", "neighbour.inner")


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "neighbour.py").write_text(_FUNCTIONS)
    return tmp_path


def _run(words: Sequence[str | bytes], home: Path, text: str = "", **variables: str) -> str:
    ended = subprocess.run(
        words,
        cwd=home,
        input=text,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
        env={**os.environ, **variables},
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


@pytest.mark.parametrize("name", ["run.v2.py", "no_suffix", "statistics.py", "with-dash.py"])
def test_a_script_may_be_called_as_it_likes(home: Path, name: str) -> None:
    (home / name).write_text(_SCRIPT)
    assert _run([sys.executable, name], home) == _TWO_FUNCTIONS


def test_a_compiled_script_works(home: Path) -> None:
    (home / "script.py").write_text(_SCRIPT)
    compile_it = "import py_compile; py_compile.compile('script.py', 'compiled.pyc')"
    _run([sys.executable, "-c", compile_it], home)
    (home / "script.py").unlink()
    assert _run([sys.executable, "compiled.pyc"], home) == _TWO_FUNCTIONS


@pytest.mark.parametrize(
    "variables",
    [{}, {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}],
    ids=["this_locale", "C"],
)
def test_a_script_whose_path_is_no_utf_8_works(home: Path, variables: dict[str, str]) -> None:
    directory = os.path.join(os.fsencode(home), b"d\xff\xe9")
    os.mkdir(directory)
    for name, text in ((b"s\xff\xe9.py", _SCRIPT), (b"neighbour.py", _FUNCTIONS)):
        with open(os.path.join(directory, name), "w") as file:
            file.write(text)
    path = os.path.join(directory, b"s\xff\xe9.py")
    assert _run([sys.executable, path], Path(os.fsdecode(directory)), **variables) == _TWO_FUNCTIONS


def test_a_program_that_is_piped_in_works(home: Path) -> None:
    assert _run([sys.executable, "-"], home, _NO_FILE) == _ONE_FUNCTION


@pytest.mark.parametrize("name", ["/dev/stdin", "/dev/fd/0", "/proc/self/fd/0", "link"])
def test_a_program_that_is_read_from_a_descriptor_works(home: Path, name: str) -> None:
    if name.startswith("/proc") and not os.path.exists("/proc/self/fd"):
        pytest.skip("no such directory here")
    os.symlink("/dev/stdin", home / "link")
    (home / "program").write_text("import sys; sys.path.insert(0, '')\n" + _NO_FILE)
    words = ["sh", "-c", 'exec "$0" "$1" < program', sys.executable, name]
    assert _run(words, home) == _ONE_FUNCTION


def test_a_program_that_is_read_from_a_fifo_works(home: Path) -> None:
    (home / "program").write_text("import sys; sys.path.insert(0, '')\n" + _NO_FILE)
    words = ["bash", "-c", 'exec "$0" <(cat program)', sys.executable]
    assert _run(words, home) == _ONE_FUNCTION


def test_a_program_given_with_c_has_pools_in_its_calls(home: Path) -> None:
    assert _run([sys.executable, "-c", _NO_FILE], home) == _ONE_FUNCTION


def test_an_installed_command_works(home: Path) -> None:
    (home / "bin").mkdir()
    command = home / "bin" / "tool"
    command.write_text(f"#!{sys.executable}\nimport sys; sys.path.insert(0, '')\n" + _SCRIPT)
    command.chmod(0o755)
    path = f"{home / 'bin'}{os.pathsep}{os.environ['PATH']}"
    assert _run(["tool"], home, PATH=path) == _TWO_FUNCTIONS


@pytest.mark.skipif(sys.version_info < (3, 11), reason="-P is new in Python 3.11")
def test_p_works_also_where_the_name_is_one_of_the_standard_library(home: Path) -> None:
    add = f"import sys; sys.path.append({str(home)!r})\n"
    (home / "random.py").write_text(add + _SCRIPT)
    assert _run([sys.executable, "-P", "random.py"], home) == _TWO_FUNCTIONS


def test_an_isolated_interpreter_works(home: Path) -> None:
    add = f"import sys; sys.path[:0] = {[*sys.path, str(home)]!r}\n"
    (home / "script.py").write_text(add + _SCRIPT)
    assert _run([sys.executable, "-I", "script.py"], home) == _TWO_FUNCTIONS


def _make_package(home: Path, text: str) -> None:
    (home / "pkg").mkdir()
    (home / "pkg" / "__init__.py").touch()
    (home / "pkg" / "__main__.py").write_text(text)


def test_a_module_run_with_m_works(home: Path) -> None:
    _make_package(home, "")
    (home / "pkg" / "tool.py").write_text(_SCRIPT)
    assert _run([sys.executable, "-m", "pkg.tool"], home) == _TWO_FUNCTIONS


def test_a_package_with_the_guard_works(home: Path) -> None:
    _make_package(home, _SCRIPT)
    assert _run([sys.executable, "-m", "pkg"], home) == _TWO_FUNCTIONS


def test_a_package_without_the_guard_runs_once(home: Path) -> None:
    _make_package(home, "from pkg.cli import main, inner\nmain(inner)\n")
    (home / "pkg" / "cli.py").write_text(_FUNCTIONS + _MAIN)
    assert _run([sys.executable, "-m", "pkg"], home) == _ONE_FUNCTION


_UNGUARDED = """
import cluster_tools

def square(number):
    return number * number

print("begins")
for keywords in ({}, {"pilot_jobs": 1}):
    with cluster_tools.get_executor("local", keep_logs=False, **keywords) as executor:
        for future in [executor.submit(square, 3) for _ in range(2)]:
            is_the_guard = 'if __name__ == "__main__":' in str(future.exception())
            print("the guard" if is_the_guard else future)
"""


@pytest.mark.parametrize("name", ["pkg", "directory"])
def test_functions_of_a_main_module_without_the_guard_are_told_so(home: Path, name: str) -> None:
    _make_package(home, _UNGUARDED)
    words = ["-m", "pkg"] if name == "pkg" else ["pkg"]
    assert _run([sys.executable, *words], home) == "begins\n" + 4 * "the guard\n"


def test_a_directory_works(home: Path) -> None:
    (home / "app").mkdir()
    (home / "app" / "__main__.py").write_text(_SCRIPT)
    (home / "app" / "neighbour.py").write_text(_FUNCTIONS)
    assert _run([sys.executable, "app"], home) == _TWO_FUNCTIONS


def test_a_zip_works(home: Path) -> None:
    with zipfile.ZipFile(home / "app.zip", "w") as app:
        app.writestr("__main__.py", _NO_FILE)
        app.writestr("neighbour.py", _FUNCTIONS)
    assert _run([sys.executable, "app.zip"], home) == _ONE_FUNCTION


@pytest.mark.parametrize("runner", ["unittest", "pytest"])
def test_a_runner_of_tests_runs_once(home: Path, runner: str) -> None:
    test = """
        import unittest

        class Test(unittest.TestCase):
            def test(self):
                sys.stdout = open("printed", "a")
                main(inner)
                sys.stdout.close()
                sys.stdout = sys.__stdout__
    """
    text = _FUNCTIONS + _MAIN + textwrap.dedent(test)
    (home / "test_own.py").write_text(text)
    options = ["-p", "no:cacheprovider"] if runner == "pytest" else []
    _run([sys.executable, "-m", runner, *options, "test_own.py"], home)
    assert (home / "printed").read_text() == _ONE_FUNCTION
