"""Promises on what a pod's container runs: a real shell runs it here, as Kubernetes would."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest

from cluster_tools.format.exit_codes import EXIT_NO_ARRAY, EXIT_NO_PACKAGE, EXIT_REFUSED
from cluster_tools.schedulers.base import ArrayRequest
from cluster_tools.schedulers.kubernetes.script import (
    WORKER_START,
    container_command,
    element_script,
    environment_script,
)
from support.waiting import LIMIT_S, wait_until

PRINT_ARGUMENTS = [sys.executable, "-c", "import sys; print(sys.argv[1:])"]


class Container:
    """An element's container: what an image and Kubernetes give to it, and what comes of it."""

    def __init__(self, directory: Path):
        self.directory = directory
        self.run_directory = directory / "run"
        self.run_directory.mkdir()
        self.working_directory = directory / "work"
        self.working_directory.mkdir()
        self.logs = directory / "logs"
        self.logs.mkdir()
        self.client: dict[str, str] = {}
        self.setup_lines: Sequence[str] = ()
        self.umask: str | None = None
        self.index: int | None = 0
        self.shell = "/bin/sh"
        self.path = os.environ["PATH"]
        self.has_files = True
        # What others do to the files before the container starts.
        self.spoil: Callable[[], object] = lambda: None

    @property
    def log(self) -> Path:
        return self.logs / f"kube.call{'' if self.index is None else f'_{self.index}'}.log"

    @property
    def environment(self) -> Path:
        return self.run_directory / "environ ment"

    @property
    def script(self) -> Path:
        return self.run_directory / "scri pt"

    def command(self, command: Sequence[str]) -> list[str]:
        request = ArrayRequest(
            "call",
            "0a1b2c3d.0.0.0",
            3,
            self.index is not None,
            command,
            str(self.working_directory),
            str(self.run_directory),
        )
        job = "call" if self.index is None else 'call"_$cluster_tools_index"'
        shell, script = element_script(request, self.setup_lines)
        if self.has_files:
            for path, text in (
                (self.environment, environment_script(self.client)),
                (self.script, script),
            ):
                if not path.exists() or path.read_bytes() != text:  # others may be reading it
                    path.write_bytes(text)
        words = container_command(
            request,
            job=job,
            log=f'{self.logs}/kube."$cluster_tools_job".log',
            environment=str(self.environment),
            script=str(self.script),
            owner=os.getuid(),
            shell=shell,
            umask=self.umask,
        )
        assert words[0] == "/bin/sh"
        return [self.shell, *words[1:]]

    def start(self, command: Sequence[str]) -> subprocess.Popen[bytes]:
        words = self.command(command)
        self.spoil()
        variables = {"PATH": self.path, "HOME": "/tmp"}
        if self.index is not None:
            variables["JOB_COMPLETION_INDEX"] = str(self.index)
        return subprocess.Popen(
            words,
            env=variables,
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )

    def run(self, command: Sequence[str]) -> tuple[int, str]:
        """The exit code, and what `kubectl logs` would show."""
        process = self.start(command)
        output, _ = process.communicate(timeout=LIMIT_S)
        return process.returncode, output.decode(errors="replace")

    def python(self, code: str) -> tuple[int, str]:
        return self.run([sys.executable, "-c", code])


@pytest.fixture
def container(tmp_path: Path) -> Container:
    return Container(tmp_path)


@pytest.fixture(params=[(), ("true",)], ids=["plain", "set-up"])
def either(request: pytest.FixtureRequest, container: Container) -> Container:
    """Without set-up lines and with them: two scripts, and two shells."""
    container.setup_lines = request.param
    return container


def _printed_environment(container: Container, *names: str) -> dict[str, bytes | None]:
    """What variables are in the element's process."""
    code = f"import os\nprint(repr({{name: os.environb.get(name.encode()) for name in {names!r}}}))"
    status, output = container.python(code)
    assert status == 0, output
    return eval(output)


# -- what it ends with, and its log --


@pytest.mark.parametrize("code", [0, 1, 3, 126, 255])
def test_the_exit_code_is_that_of_the_element(either: Container, code: int) -> None:
    assert either.python(f"import sys; sys.exit({code})") == (code, "")


def test_what_is_printed_is_in_the_log_and_in_the_pods_own(either: Container) -> None:
    code = "import sys; print('out', flush=True); print('err', file=sys.stderr)"
    assert either.python(code) == (0, "out\nerr\n")
    assert either.log.read_text() == "out\nerr\n"


def test_long_output_arrives_whole_and_once(either: Container) -> None:
    status, output = either.python("print('\\n'.join(str(n) for n in range(100_000)))")
    assert status == 0
    assert output == "".join(f"{n}\n" for n in range(100_000))
    assert either.log.read_text() == output


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGTERM])
def test_a_process_that_a_signal_ends_has_printed_and_says_by_which(
    either: Container, number: signal.Signals
) -> None:
    code = f"import os; print('here', flush=True); os.kill(os.getpid(), {int(number)})"
    status, output = either.python(code)
    assert status == 128 + number
    assert "here\n" in output
    assert either.log.read_text().startswith("here\n")


def test_output_is_copied_while_the_element_runs(container: Container) -> None:
    end = container.directory / "end"
    code = (
        "import os, time\n"
        "print('early', flush=True)\n"
        f"while not os.path.exists({str(end)!r}): time.sleep(0.01)\n"
    )
    with container.start([sys.executable, "-c", code]) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == b"early\n"
        finally:
            end.touch()
        assert process.wait(LIMIT_S) == 0


def test_a_log_goes_on_where_an_earlier_one_ended(container: Container) -> None:
    container.log.write_text("before\n")
    assert container.python("print('after')") == (0, "before\nafter\n")
    assert container.log.read_text() == "before\nafter\n"


def test_a_tail_that_knows_no_pid_leaves_the_log_to_be_copied_at_the_end(
    either: Container,
) -> None:
    """As that of an image with busybox."""
    stubs = either.directory / "bin"
    stubs.mkdir()
    tail = stubs / "tail"
    tail.write_text('#!/bin/sh\necho "tail: unrecognized option: pid=$$" >&2\nexit 1\n')
    tail.chmod(0o755)
    either.path = f"{stubs}:{either.path}"
    assert either.python("print('whole'); exit(3)") == (3, "whole\n")
    assert either.log.read_text() == "whole\n"


def test_an_image_without_tail_copies_the_log_at_the_end(container: Container) -> None:
    programs = container.directory / "bin"
    programs.mkdir()
    for name in ("cat", "id", "ls"):
        found = shutil.which(name)
        assert found is not None
        (programs / name).symlink_to(found)
    container.path = str(programs)
    assert container.python("print('whole')") == (0, "whole\n")


def test_a_log_directory_that_is_not_there_is_said(container: Container) -> None:
    container.logs.rmdir()
    status, output = container.python("print('lost')")
    assert status != 0
    assert str(container.logs) in output


# -- signals --

# By `os.write`: a signal may come within `print`, which its handler must not call then.
_UNTIL_TERM = """
import os, signal, sys, time
def end(*_):
    os.write(1, b"got it\\n")
    sys.exit(5)
signal.signal(signal.SIGTERM, end)
os.write(1, b"ready\\n")
while True: time.sleep(0.01)
"""


_SAY_PID = r"import os; os.write(1, b'%d\n' % os.getpid())"


def test_sigterm_to_the_shell_reaches_the_element(either: Container) -> None:
    with either.start([sys.executable, "-c", _UNTIL_TERM]) as process:
        wait_until(lambda: either.log.exists() and "ready" in either.log.read_text())
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=LIMIT_S)
    assert process.returncode == 5
    assert "got it" in output.decode()
    assert "got it" in either.log.read_text()


def test_an_element_that_has_ended_when_the_shell_hears_the_signal_keeps_its_exit_code(
    either: Container,
) -> None:
    with either.start([sys.executable, "-c", f"{_SAY_PID}\n{_UNTIL_TERM}"]) as process:
        wait_until(lambda: either.log.exists() and "ready" in either.log.read_text())
        element = int(either.log.read_text().split()[0])
        process.send_signal(signal.SIGSTOP)
        process.send_signal(signal.SIGTERM)
        os.kill(element, signal.SIGTERM)
        status = Path(f"/proc/{element}/stat")
        wait_until(lambda: status.read_text().rpartition(")")[2].split()[0] == "Z")
        process.send_signal(signal.SIGCONT)
        process.communicate(timeout=LIMIT_S)
    assert process.returncode == 5


def test_an_element_may_take_its_time_after_each_of_several_signals(either: Container) -> None:
    code = """
import os, signal, sys, time
seen = []
signal.signal(signal.SIGTERM, lambda *_: (seen.append(1), os.write(1, b"seen %d\\n" % len(seen))))
os.write(1, b"ready\\n")
while len(seen) < 3: time.sleep(0.01)
sys.exit(6)
"""
    with either.start([sys.executable, "-c", code]) as process:
        for words in ("ready", "seen 1", "seen 2"):
            wait_until(lambda words=words: either.log.exists() and words in either.log.read_text())
            process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=LIMIT_S)
    assert process.returncode == 6, output


# -- what stands in its way --


def test_a_run_directory_that_is_not_there_is_said_before_anything_runs(
    container: Container,
) -> None:
    command = container.command([sys.executable, "-c", "print('ran')"])
    shutil.rmtree(container.run_directory)
    ended = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, check=False)
    assert ended.returncode == EXIT_NO_ARRAY
    assert ended.stdout.startswith("cluster_tools: run directory not visible in the pod: ")
    assert str(container.run_directory) in ended.stdout
    assert "mounts" in ended.stdout
    assert len(ended.stdout.splitlines()) == 1
    assert not container.log.exists()


def test_an_environment_that_cannot_be_read_is_said_before_anything_runs(
    container: Container,
) -> None:
    container.has_files = False
    status, output = container.python("print('ran')")
    assert status == EXIT_REFUSED
    assert output.startswith("cluster_tools: ")
    assert str(container.run_directory) in output
    assert not container.log.exists()


@pytest.mark.parametrize("name", ["it's", "a b", "$HOME", "`id`", 'q"q', "-n", "a%sb{x}"])
def test_directories_may_have_any_name(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    container = Container(tmp_path / name)
    container.logs = tmp_path / "logs"
    container.logs.mkdir()
    status, output = container.python("import os; print(os.getcwd())")
    assert (status, output) == (0, f"{container.working_directory}\n")
    shutil.rmtree(container.run_directory)
    container.has_files = False
    command = container.command(["true"])
    ended = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, check=False)
    assert ended.returncode == EXIT_NO_ARRAY
    assert str(container.run_directory) in ended.stdout


# -- umask and environment --


@pytest.mark.parametrize(("umask", "mode"), [("0077", 0o600), ("0002", 0o664), ("0", 0o666)])
def test_files_are_made_with_the_umask(either: Container, umask: str, mode: int) -> None:
    either.umask = umask
    assert either.python("open('made', 'w').close()") == (0, "")
    made = either.working_directory / "made"
    assert made.stat().st_mode & 0o777 == mode
    assert either.log.stat().st_mode & 0o777 == mode


ODD_VALUES = {
    "NEWLINES": b"a\nb\n\n",
    "QUOTES": b'it\'s "quoted" `id` $HOME $(id) \\ \\n',
    "BYTES": bytes(range(1, 256)),
    "EMPTY": b"",
    "SPACES": b"  a  b\t",
    "GLOB": b"*",
    "_lower_1": b"x",
}


def test_values_arrive_as_they_are(either: Container) -> None:
    either.client = {name: os.fsdecode(value) for name, value in ODD_VALUES.items()}
    assert _printed_environment(either, *ODD_VALUES) == ODD_VALUES


LEFT_OUT = [
    "PATH",
    "HOME",
    "USER",
    "SHELL",
    "PWD",
    "TMPDIR",
    "HOSTNAME",
    "BASH_ENV",
    "LD_PRELOAD",
    "LD_LIBRARY_PATH",
    "PYTHONPATH",
    "PYTHONHOME",
    "VIRTUAL_ENV",
    "VIRTUAL_ENV_PROMPT",
    "KUBECONFIG",
    "KUBERNETES_SERVICE_HOST",
    "JOB_COMPLETION_INDEX",
    "CLUSTER_TOOLS_POD_NAME",
    "CLUSTER_TOOLS_POD_UID",
    "BASH_FUNC_x%%",
    "with-dash",
    "1st",
    "",
    "größe",
    "a b",
]


@pytest.mark.parametrize("name", LEFT_OUT)
def test_what_is_the_clients_machines_is_left_out(name: str) -> None:
    assert environment_script({name: "1", "KEPT": "2"}) == b"export KEPT=2\n"


def test_names_that_look_like_those_are_kept() -> None:
    names = ["MY_PATH", "PATHS", "HOMES", "__", "MY_KUBE", "OLD_VIRTUAL_ENV", "ENVIRONMENT"]
    lines = environment_script(dict.fromkeys(names, "1")).decode().splitlines()
    assert lines == [f"export {name}=1" for name in names]


def test_the_pods_own_path_and_home_are_kept(container: Container) -> None:
    container.client = {"PATH": "/nowhere", "HOME": "/home/of/client"}
    seen = _printed_environment(container, "PATH", "HOME")
    assert seen == {"PATH": os.fsencode(container.path), "HOME": b"/tmp"}


@pytest.mark.parametrize("name", ["UID", "EUID", "PPID", "SHELLOPTS", "BASHOPTS"])
def test_a_variable_that_bash_keeps_to_itself_does_not_end_it(
    container: Container, name: str
) -> None:
    """Where /bin/sh is bash, as in images of Fedora and its kin; `export UID` is usual with
    compose.
    """
    container.shell = str(container.directory / "sh")
    os.symlink("/bin/bash", container.shell)
    container.client = {name: "1000", "LAST": "1"}
    assert _printed_environment(container, "LAST") == {"LAST": b"1"}


def test_a_separator_of_the_clients_shell_does_not_split_our_words(container: Container) -> None:
    container.client = {"IFS": "0123456789"}
    assert container.python("print('out'); exit(3)") == (3, "out\n")


@pytest.mark.parametrize("name", ["index", "job", "log", "element", "code", "copy"])
def test_a_variable_arrives_whatever_its_name(either: Container, name: str) -> None:
    either.client = {name: "mine"}
    assert _printed_environment(either, name) == {name: b"mine"}


# -- index, job and log --


@pytest.mark.parametrize("index", [0, 1, 99_999])
def test_an_element_is_given_its_index_job_and_log(either: Container, index: int) -> None:
    either.index = index
    status, output = either.run([*PRINT_ARGUMENTS, "first"])
    expected = ["first", str(index), "0", f"call_{index}", str(either.log)]
    assert (status, output) == (0, f"{expected}\n")


def test_a_single_call_has_the_name_of_its_job(either: Container) -> None:
    either.index = None
    status, output = either.run(PRINT_ARGUMENTS)
    assert (status, output) == (0, f"{['0', '0', 'call', str(either.log)]}\n")


def test_elements_that_run_at_once_have_a_log_each(container: Container) -> None:
    processes: list[subprocess.Popen[bytes]] = []
    logs: list[Path] = []
    for index in range(8):
        container.index = index
        logs.append(container.log)
        processes.append(container.start(PRINT_ARGUMENTS))
    for index, (process, log) in enumerate(zip(processes, logs)):
        output, _ = process.communicate(timeout=LIMIT_S)
        expected = f"{[str(index), '0', f'call_{index}', str(log)]}\n"
        assert (process.returncode, output.decode(), log.read_text()) == (0, expected, expected)


# -- set-up lines --


def test_set_up_lines_are_run_before_the_element(container: Container) -> None:
    container.setup_lines = ["export GREETING=hello", "greet() { echo $GREETING; }", "greet"]
    assert container.python("import os; print(os.environ['GREETING'])") == (0, "hello\nhello\n")


def test_a_set_up_line_that_fails_ends_it_with_its_code_and_says_which(
    container: Container,
) -> None:
    container.setup_lines = ["echo before", "(exit 9)", "echo after"]
    status, output = container.python("print('ran')")
    assert status == 9
    assert "before" in output
    assert "a set-up line failed with exit code 9" in output
    assert "after" not in output
    assert "ran" not in output
    assert container.log.read_text() == output


def test_set_up_lines_have_no_arguments_and_may_set_some(container: Container) -> None:
    container.setup_lines = ['echo "$# arguments"', "set -- a b c", "shift", 'echo "$@"']
    status, output = container.run(PRINT_ARGUMENTS)
    expected = ["0", "0", "call_0", str(container.log)]
    assert (status, output) == (0, f"0 arguments\nb c\n{expected}\n")


@pytest.mark.parametrize("line", ["index=7", "job=7", "for log in a b; do :; done"])
def test_set_up_lines_may_use_any_variable(container: Container, line: str) -> None:
    container.setup_lines = [line]
    status, output = container.run(PRINT_ARGUMENTS)
    assert (status, output) == (0, f"{['0', '0', 'call_0', str(container.log)]}\n")


def test_set_up_lines_see_the_clients_environment(container: Container) -> None:
    container.client = {"MODULES": "a b"}
    container.setup_lines = ['echo "[$MODULES]"']
    assert container.python("pass") == (0, "[a b]\n")


# -- the start of the worker --


def _start_worker(
    directory: Path, *flags: str, variables: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """In an environment in which only the interpreter's own site-packages are found."""
    arguments = [str(directory / "array"), "0", "0", "0", "0", "call_0", str(directory / "log")]
    return subprocess.run(
        [sys.executable, *flags, "-c", WORKER_START, *arguments],
        cwd=directory,
        env={"PATH": os.environ["PATH"], **(variables or {})},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )


def test_an_image_without_cluster_tools_is_told_what_it_needs(tmp_path: Path) -> None:
    ended = _start_worker(tmp_path, "-S")  # no site-packages
    assert (ended.returncode, ended.stdout) == (EXIT_NO_PACKAGE, "")
    assert ended.stderr.startswith(f"cluster_tools: {sys.executable} of the image cannot import")
    assert "the version that the client has" in ended.stderr
    assert len(ended.stderr.splitlines()) == 1


def test_that_word_arrives_in_the_log_and_the_pods_own(container: Container) -> None:
    status, output = container.run([sys.executable, "-S", "-c", WORKER_START])
    assert status == EXIT_NO_PACKAGE
    assert output.startswith("cluster_tools: ")
    assert container.log.read_text() == output


@pytest.mark.parametrize("variables", [{}, {"PYTHONSAFEPATH": "1"}], ids=["default", "safe-path"])
def test_a_worker_starts_and_says_what_it_misses(tmp_path: Path, variables: dict[str, str]) -> None:
    ended = _start_worker(tmp_path, variables=variables)
    assert ended.returncode == EXIT_NO_ARRAY, ended.stderr
    assert f"cannot open {tmp_path}/array" in ended.stderr


@pytest.mark.parametrize(
    "name", ["signal.py", "cluster_tools.py", "os.py", "logging.py", "pickle.py", "cloudpickle.py"]
)
def test_files_of_the_working_directory_hide_nothing_from_the_worker(
    tmp_path: Path, name: str
) -> None:
    (tmp_path / name).write_text("raise SystemExit('hidden')\n")
    ended = _start_worker(tmp_path)
    assert ended.returncode == EXIT_NO_ARRAY, ended.stderr
    ended = _start_worker(tmp_path, "-S")
    assert ended.returncode == EXIT_NO_PACKAGE, ended.stderr


# -- what others put there --


def _is_root() -> bool:
    return os.geteuid() == 0


@pytest.mark.skipif(not _is_root(), reason="only root can give a file to another user")
@pytest.mark.parametrize("name", ["environment", "script"])
def test_what_another_user_has_put_there_is_not_run(either: Container, name: str) -> None:
    def spoil() -> None:
        path: Path = getattr(either, name)
        path.write_text(f"touch {either.working_directory}/ran\n")
        os.chown(path, 12345, 12345)

    either.spoil = spoil
    status, output = either.python("print('ran')")
    assert status == EXIT_REFUSED
    assert "does not belong to the user 0: nothing is run" in output
    assert os.listdir(either.working_directory) == []


@pytest.mark.parametrize("kind", ["link", "fifo", "directory"])
@pytest.mark.parametrize("name", ["environment", "script", "log"])
def test_what_is_no_file_is_refused(either: Container, name: str, kind: str) -> None:
    """Before it is opened: a FIFO would wait for ever."""
    target = either.directory / "target"
    target.write_text("touch ran\n")

    def spoil() -> None:
        path: Path = getattr(either, name)
        path.unlink(missing_ok=True)
        if kind == "link":
            path.symlink_to(target)
        elif kind == "fifo":
            os.mkfifo(path)
        else:
            path.mkdir()

    either.spoil = spoil
    status, output = either.python("print('ran')")
    assert status == EXIT_REFUSED
    assert "no regular file" in output
    assert target.read_text() == "touch ran\n"
    assert os.listdir(either.working_directory) == []


def test_set_up_lines_are_in_no_word_of_the_container(container: Container) -> None:
    container.setup_lines = ("export TOKEN=verysecret",)
    assert "verysecret" not in " ".join(container.command(["true"]))
    assert container.python("import os; print(os.environ['TOKEN'])") == (0, "verysecret\n")


def test_a_log_is_for_its_user_alone(container: Container) -> None:
    assert container.python("print('mine')") == (0, "mine\n")
    assert container.log.stat().st_mode & 0o777 == 0o600
