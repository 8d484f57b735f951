"""Promises on where functions come from: scripts, neighbour modules, `-c`, closures, notebooks."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from support.clusters import Cluster
from support.programs import Program
from support.waiting import LIMIT_S

_SCRIPT = """
    import functools
    import sys
    import threading

    import cluster_tools

    LOCK = threading.Lock()
    SEEN = []
    SETTING = "from the script"


    class Pair:
        def __init__(self, left, right):
            self.left, self.right = left, right


    class Special(Exception):
        pass


    @functools.singledispatch
    def kind(value):
        return "other"


    @kind.register
    def _(value: Pair):
        return "pair"


    def swap(pair):
        with LOCK:
            SEEN.append(pair)
            assert isinstance(pair, Pair)
            assert kind(pair) == "pair"
            assert sys.modules["__main__"].Pair is Pair
            return Pair(pair.right, (pair.left, SETTING, len(SEEN)))


    def fail(value):
        raise Special(value)


    def main():
        with cluster_tools.get_executor({environment!r}, **{keywords!r}) as executor:
            swapped = executor.submit(swap, Pair(1, 2)).result()
            assert type(swapped) is Pair
            print(swapped.left, swapped.right)
            error = executor.submit(fail, 5).exception()
            assert isinstance(error, Special) and isinstance(error, cluster_tools.RemoteException)
            outer = 10
            print(executor.submit(lambda number: Pair(number + outer, SETTING), 1).result().left)
            print([p.left for p in executor.map(swap, [Pair(0, n) for n in range(3)])])


    if __name__ == "__main__":
        main()
"""
_PRINTED = "2 (1, 'from the script', 1)\n11\n[0, 1, 2]\n"


def _script(cluster: Cluster, directory: Path) -> str:
    keywords = {**cluster.keywords, "cfut_dir": str(directory / "cfut")}
    return textwrap.dedent(_SCRIPT).format(environment=cluster.environment, keywords=keywords)


def test_a_scripts_own_functions_and_classes_keep_their_identity(
    cluster: Cluster, tmp_path: Path
) -> None:
    with Program(tmp_path / "own_script.py", _script(cluster, tmp_path)) as program:
        assert program.succeed() == _PRINTED


def test_a_script_without_the_suffix_works(cluster: Cluster, tmp_path: Path) -> None:
    with Program(tmp_path / "own-script", _script(cluster, tmp_path)) as program:
        assert program.succeed() == _PRINTED


def test_a_script_of_the_name_of_a_module_works(cluster: Cluster, tmp_path: Path) -> None:
    with Program(tmp_path / "pickle_.py", _script(cluster, tmp_path)) as program:
        assert program.succeed() == _PRINTED


def test_a_package_run_with_m_works(cluster: Cluster, tmp_path: Path) -> None:
    package = tmp_path / "own_package"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "part.py").write_text("def triple(number): return 3 * number\n")
    (package / "__main__.py").write_text(
        _script(cluster, tmp_path).replace(
            "    main()\n",
            "    main()\n    from own_package import part\n    print(part.triple(2))\n",
        )
    )
    printed = subprocess.run(
        [sys.executable, "-m", "own_package"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        text=True,
        timeout=LIMIT_S,
        check=True,
    ).stdout
    assert printed == f"{_PRINTED}6\n"


def test_a_script_run_from_another_directory_finds_its_neighbour_in_the_job(
    cluster: Cluster, tmp_path: Path
) -> None:
    elsewhere, home = tmp_path / "elsewhere", tmp_path / "home"
    elsewhere.mkdir()
    home.mkdir()
    (home / "neighbour_module.py").write_text("def triple(number): return 3 * number\n")
    keywords = {**cluster.keywords, "cfut_dir": "relative_cfut"}
    text = f"""
        import cluster_tools
        import neighbour_module

        if __name__ == "__main__":
            with cluster_tools.get_executor({cluster.environment!r}, **{keywords!r}) as executor:
                print(list(executor.map(neighbour_module.triple, [1, 2])))
    """
    with Program(home / "script.py", text, cwd=elsewhere) as program:
        assert program.succeed() == "[3, 6]\n"
    assert len(list((elsewhere / "relative_cfut").iterdir())) == 2


def test_a_program_given_with_c_works(cluster: Cluster, tmp_path: Path) -> None:
    keywords = {**cluster.keywords, "cfut_dir": str(tmp_path / "cfut")}
    program = f"""
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

        with cluster_tools.get_executor({cluster.environment!r}, **{keywords!r}) as executor:
            swapped = executor.submit(swap, Pair(1, 2)).result()
            print(type(swapped).__name__, swapped.left, swapped.right)
            print([pair.left for pair in executor.map(swap, [Pair(0, n) for n in range(3)])])
            print(repr(executor.submit(fail, 5).exception()))
    """
    ended = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    assert (ended.returncode, ended.stdout) == (0, "Pair 2 1\n[0, 1, 2]\nSpecial(5)\n"), (
        ended.stderr
    )


def test_a_script_without_the_guard_is_told_so(cluster: Cluster, tmp_path: Path) -> None:
    keywords = {**cluster.keywords, "cfut_dir": str(tmp_path / "cfut")}
    text = f"""
        import cluster_tools

        def square(number):
            return number * number

        with cluster_tools.get_executor({cluster.environment!r}, **{keywords!r}) as executor:
            print(executor.submit(square, 3).result())
    """
    with Program(tmp_path / "unguarded.py", text) as program:
        assert program.exit_status() == 1
    assert "current process has finished its bootstrapping phase" in program.stderr
    assert 'if __name__ == "__main__":' in program.stderr


_POOLS = """
    import concurrent.futures
    import multiprocessing

    import cluster_tools

    def double(number):
        return 2 * number

    def in_executor(method):
        context = multiprocessing.get_context(method)
        with concurrent.futures.ProcessPoolExecutor(1, context) as pool:
            return pool.submit(double, 1).result(60)

    def in_pool(method):
        with multiprocessing.get_context(method).Pool(1) as pool:
            return pool.map_async(double, [1]).get(60)

    if __name__ == "__main__":
        for pilots in ({{}}, {{"pilot_jobs": 1}}):
            with cluster_tools.get_executor({environment!r}, **{keywords!r}, **pilots) as executor:
                futures = [
                    executor.submit(call, method)
                    for call in (in_executor, in_pool)
                    for method in ("spawn", "forkserver")
                ]
                print([future.result() for future in futures])
"""


def test_a_call_has_pools_of_its_own(cluster: Cluster, tmp_path: Path) -> None:
    keywords = {**cluster.keywords, "cfut_dir": str(tmp_path / "cfut")}
    text = _POOLS.format(environment=cluster.environment, keywords=keywords)
    with Program(tmp_path / "run.v2.py", text) as program:
        assert program.succeed() == 2 * "[2, 2, [2], [2]]\n"


def test_a_script_whose_path_is_no_utf_8_works(cluster: Cluster, tmp_path: Path) -> None:
    if cluster.environment == "kubernetes":
        pytest.skip("what a pod is made of is JSON, which has no such paths")
    directory = tmp_path / os.fsdecode(b"d\xff")
    directory.mkdir()
    script = directory / os.fsdecode(b"s\xe9.py")
    text = _POOLS.replace("(in_executor, in_pool)", "(in_executor,)").format(
        environment=cluster.environment,
        keywords={**cluster.keywords, "cfut_dir": "cfut"},
    )
    script.write_text(textwrap.dedent(text))
    ended = subprocess.run(
        [sys.executable, script],
        cwd=directory,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    assert (ended.returncode, ended.stdout) == (0, 2 * "[2, 2]\n"), ended.stderr
