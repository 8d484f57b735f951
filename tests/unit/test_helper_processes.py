"""Promises on our own helper processes: they import nothing of the user's, and say where they can't
start.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
import venv
import zipfile
from pathlib import Path

import pytest

import cluster_tools
from cluster_tools.schedulers import detached
from cluster_tools.schedulers.detached import entries_for, helper_command, start_helper
from support.waiting import LIMIT_S, wait_until

_PACKAGE = Path(cluster_tools.__file__).parent
_STOP = "cluster_tools.schedulers.slurm.stop"
_SQUEUE = """\
#!/bin/sh
pwd >> {note}
echo "JOBID|STATE|REASON|COMMAND"
echo "7|PENDING|None|/a/0a1b2c3d.0.0.0.sh"
"""


@pytest.fixture
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stands for squeue and scancel; the latter's words come into this file."""
    directory, note = tmp_path / "bin", tmp_path / "cancelled"
    directory.mkdir()
    for name, script in (
        ("squeue", _SQUEUE.format(note=tmp_path / "squeue")),
        ("scancel", f'#!/bin/sh\necho "$@" > {note}.part\nmv {note}.part {note}\n'),
    ):
        (directory / name).write_text(script)
        (directory / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(directory), prepend=":")
    return note


_RAISES = "raise ImportError('a file that happens to lie here')\n"


def _spoil(directory: Path) -> None:
    """Makes modules that nobody may import."""
    directory.mkdir(exist_ok=True)
    for name in ("selectors", "subprocess", "json", "re", "sitecustomize", "usercustomize"):
        (directory / f"{name}.py").write_text(_RAISES)
    (directory / "cluster_tools").mkdir()
    (directory / "cluster_tools" / "__init__.py").write_text(_RAISES)


def _cancel() -> None:
    start_helper(_STOP, ["elements", "0a1b2c3d", "5"], stdin="7\n8\n7_[0-3]")


def _assert_cancels(commands: Path) -> None:
    wait_until(commands.exists, "scancel")
    # 8 is not ours, and the last line was cut short.
    assert commands.read_text().split() == ["7"]


def test_a_helper_imports_nothing_from_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, commands: Path
) -> None:
    _spoil(tmp_path / "here")
    monkeypatch.chdir(tmp_path / "here")
    _cancel()
    _assert_cancels(commands)
    assert (tmp_path / "squeue").read_text() == "/\n"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PYTHONPATH", "{spoilt}"),
        ("PYTHONSTARTUP", "{spoilt}/json.py"),
        ("PYTHONHOME", "/nowhere"),
        ("PYTHONINSPECT", "1"),
        ("PYTHONSAFEPATH", ""),
        ("PYTHONPLATLIBDIR", "nowhere"),
        ("PYTHONWARNINGS", "error"),
        ("PYTHONUSERBASE", "{spoilt}"),
        ("PYTHONUTF8", "1"),
    ],
)
def test_a_helper_has_none_of_the_users_python_variables(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, commands: Path, name: str, value: str
) -> None:
    _spoil(tmp_path / "spoilt")
    monkeypatch.setenv(name, value.format(spoilt=tmp_path / "spoilt"))
    _cancel()
    _assert_cancels(commands)


def test_a_helper_runs_no_pth_file_and_no_sitecustomize(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, commands: Path
) -> None:
    venv.create(tmp_path / "venv", symlinks=True)
    packages = next((tmp_path / "venv" / "lib").glob("python3*/site-packages"))
    _spoil(packages)
    (packages / "evil.pth").write_text(f"import os; os.mkdir({str(tmp_path / 'pth_was_run')!r})\n")
    monkeypatch.setattr(sys, "executable", str(tmp_path / "venv" / "bin" / "python"))
    _cancel()
    _assert_cancels(commands)
    assert not (tmp_path / "pth_was_run").exists()


def _run_elsewhere(tmp_path: Path, package_parent: Path) -> None:
    """Starts a helper from a client whose package is imported from there."""
    program = (
        "import os, sys\n"
        f"sys.path.insert(0, os.fsdecode({os.fsencode(package_parent)!r}))\n"
        "from cluster_tools.schedulers import detached\n"
        f"assert not detached.__file__.startswith({str(_PACKAGE)!r})\n"
        f"detached.start_helper({_STOP!r}, ['elements', '0a1b2c3d', '5'], stdin='7\\n')\n"
    )
    subprocess.run([sys.executable, "-S", "-c", program], check=True, cwd=tmp_path, timeout=60)


@pytest.mark.parametrize("name", [b"packages", b"with 'quotes' {and} %s", b"no utf-8: \xff"])
def test_a_helper_starts_from_whatever_directory_the_package_lies_in(
    tmp_path: Path, commands: Path, name: bytes
) -> None:
    parent = tmp_path / os.fsdecode(name)
    _spoil(parent)
    (parent / "cluster_tools" / "__init__.py").unlink()
    (parent / "cluster_tools").rmdir()
    (parent / "cluster_tools").symlink_to(_PACKAGE)
    for module in ("subprocess", "selectors", "json", "re"):  # the client itself needs them
        (parent / f"{module}.py").rename(parent / f"{module}.later")
    _run_elsewhere(tmp_path, parent)
    _assert_cancels(commands)


def test_a_helper_starts_from_a_zip(tmp_path: Path, commands: Path) -> None:
    archive = tmp_path / "packages.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for path in _PACKAGE.rglob("*.py"):
            file.write(path, path.relative_to(_PACKAGE.parent))
    _run_elsewhere(tmp_path, archive)
    _assert_cancels(commands)


@pytest.mark.parametrize("entries", [[], entries_for("pytest")], ids=["none", "its_own"])
def test_a_helper_sees_what_lies_beside_the_package_only_where_it_needs_that(
    entries: list[str],
) -> None:
    command = helper_command(_STOP, [], entries)
    command = [word.replace("main(sys.argv[2:], begun)", "import pytest") for word in command]
    done = subprocess.run(command, cwd="/", timeout=60, check=False)
    assert (done.returncode == 0) is bool(entries)


def test_relative_entries_of_path_are_the_clients(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, commands: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", f"bin{os.pathsep}{os.defpath}")
    _cancel()
    _assert_cancels(commands)


@pytest.mark.parametrize("script", [None, "", "relative.py", "/absolute.py"])
def test_a_helper_starts_where_the_working_directory_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, commands: Path, script: str | None
) -> None:
    monkeypatch.setattr(sys.modules["__main__"], "__file__", script, raising=False)
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    try:
        _cancel()
        assert entries_for("pytest")
    finally:
        os.chdir(tmp_path)
    _assert_cancels(commands)


@pytest.mark.parametrize(
    ("executable", "words"),
    [("/no/such/python", "/no/such/python"), ("/bin/false", "it said nothing"), ("", "")],
)
def test_a_helper_that_cannot_start_is_said(
    monkeypatch: pytest.MonkeyPatch, executable: str, words: str
) -> None:
    monkeypatch.setattr(sys, "executable", executable)
    with pytest.raises(OSError, match=f"{_STOP}.* could not start: .*{words}"):
        _cancel()


def test_a_helper_that_cannot_import_its_module_is_said() -> None:
    with pytest.raises(OSError, match="ModuleNotFoundError"):
        start_helper("cluster_tools.schedulers.nothing", [])


def test_a_helper_gets_all_of_a_long_list(tmp_path: Path, commands: Path) -> None:
    start_helper(_STOP, ["elements", "0a1b2c3d", "5"], stdin="8\n" * 200_000 + "7\n")
    _assert_cancels(commands)


def test_entries_are_those_of_packages_and_not_the_scripts_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", ["", str(tmp_path), *sys.path])
    entries = entries_for("pytest")
    assert entries[0] == str(Path(pytest.__file__).parent.parent)
    assert not {"", str(tmp_path)} & set(entries)


def test_the_helper_that_deletes_jobs_finds_the_client_of_kubernetes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("kubernetes")
    _spoil(tmp_path / "here")
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "here"))
    start_helper(
        "cluster_tools.schedulers.kubernetes.stop",
        ["", "default", ""],
        entries=entries_for("kubernetes"),
        changed={"KUBECONFIG": str(tmp_path / "nothing")},
    )


# -- what it does first --


def _stand_in(directory: Path, name: str, script: str) -> None:
    (directory / "bin" / name).write_text(f"#!/bin/sh\n{script}\n")
    (directory / "bin" / name).chmod(0o755)


def test_who_starts_a_helper_goes_on_once_the_first_cancel_is_through(commands: Path) -> None:
    _cancel()
    assert commands.read_text().split() == ["7"]


def test_a_scheduler_that_does_not_answer_holds_up_executors_once(
    commands: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(detached, "_BEGIN_LIMIT_S", 1.0)
    monkeypatch.setattr(detached, "_no_wait_until", 0.0)
    gate = tmp_path / "gate"
    _stand_in(
        tmp_path,
        "squeue",
        f"until [ -e {gate} ]; do sleep 0.05; done\n{_SQUEUE.format(note='/dev/null')}",
    )
    waits: list[float] = []
    for _ in range(3):
        began = time.monotonic()
        _cancel()
        waits.append(time.monotonic() - began)
    assert not commands.exists()
    assert waits[0] >= 1.0
    assert detached._no_wait_until > time.monotonic()
    gate.touch()
    wait_until(commands.exists, "scancel")


def test_a_helper_that_is_killed_is_started_again_and_that_is_said(
    commands: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pid = tmp_path / "pid"
    _stand_in(
        tmp_path,
        "squeue",
        f"if [ ! -e {pid} ]; then echo $PPID > {pid}.part; mv {pid}.part {pid}; sleep 60; fi\n"
        + _SQUEUE.format(note="/dev/null"),
    )
    thread = threading.Thread(target=_cancel)
    thread.start()
    wait_until(pid.exists, "the helper")
    helper = int(pid.read_text())
    while _words_of(helper)[:1] and _STOP not in _words_of(helper):  # a shell between the two
        helper = int(Path(f"/proc/{helper}/stat").read_text().rsplit(")", 1)[1].split()[1])
    os.kill(helper, signal.SIGKILL)
    wait_until(commands.exists, "the second helper's scancel")
    thread.join(LIMIT_S)
    assert "has ended before its work was done, and is started again" in caplog.text


def _words_of(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/cmdline").read_text().split("\0")
