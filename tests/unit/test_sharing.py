"""Promises on the files of shared values: their format, their client and their readers."""

from __future__ import annotations

import errno
import gc
import os
import pickle
import resource
import signal
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from cluster_tools import pickling, shared_values
from cluster_tools.cluster.run_directory import RunDirectory
from cluster_tools.executors.temporary_shared import TemporarySharedFiles
from cluster_tools.format import run_files, shared
from cluster_tools.own_files import NotOurs
from cluster_tools.shared_values import load_shared
from support.waiting import LIMIT_S, wait_until


class Block:
    """Memory that is pickled as NumPy and Arrow do it: as a buffer."""

    def __init__(self, memory: Any) -> None:
        self.memory = memory

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        return Block, (pickle.PickleBuffer(self.memory),)


class Slow:
    """Takes a while to unpickle, and counts how often that was done."""

    count = 0

    def __reduce__(self) -> tuple[Any, ...]:
        return _slow, ()


def _slow() -> Slow:
    Slow.count += 1
    time.sleep(0.05)  # so that other threads ask for it meanwhile
    return Slow()


@pytest.fixture
def directory(tmp_path: Path) -> RunDirectory:
    return RunDirectory(str(tmp_path / "cfut"))


def _files(directory: RunDirectory) -> list[str]:
    return sorted(os.listdir(os.path.join(directory.path, run_files.SHARED)))


def _reference(handle: Any) -> tuple[bytes, int]:
    """What a pickle of a handle has: path and owner."""
    _, arguments = handle.__reduce__()
    return arguments


# -- format --


def test_a_file_has_the_pickle_and_its_aligned_buffers() -> None:
    values = [Block(b"a"), Block(b""), "between", Block(bytes(range(200)))]
    pickled, buffers = pickling.dump_with_buffers(values)
    data = b"".join(shared.encode(pickled, buffers))
    offset, count = shared.decode_footer(data[-shared.FOOTER_BYTES :], len(data))
    assert count == 3
    index = data[-shared.FOOTER_BYTES - count * shared.ROW_BYTES : -shared.FOOTER_BYTES]
    places = shared.decode_index(index, offset)
    assert [begin % shared.BUFFER_ALIGNMENT for begin, _ in places] == [0, 0, 0]
    found = [memoryview(data)[begin : begin + length] for begin, length in places]
    loaded = pickle.loads(data[offset:], buffers=found)
    assert [bytes(loaded[n].memory) for n in (0, 1, 3)] == [b"a", b"", bytes(range(200))]


@pytest.mark.parametrize("cut", [1, shared.FOOTER_BYTES, shared.FOOTER_BYTES + 1, 500])
def test_a_file_that_is_cut_short_is_noticed(cut: int) -> None:
    data = b"".join(shared.encode([b"p" * 600], [memoryview(b"buffer")]))[:-cut]
    with pytest.raises(ValueError, match="is cut short"):
        shared.decode_footer(data[-shared.FOOTER_BYTES :], len(data))


def test_a_file_of_another_size_is_noticed() -> None:
    data = b"".join(shared.encode([b"p" * 600], []))
    with pytest.raises(ValueError, match="not what it should have"):
        shared.decode_footer(data[-shared.FOOTER_BYTES :], len(data) - 1)


# -- writing --


def test_files_are_private_and_nothing_else_is_left(directory: RunDirectory) -> None:
    handle = directory.shared.share(Block(bytes(5_000_000)))
    assert _files(directory) == ["0"]
    path = os.fsdecode(_reference(handle)[0])
    assert os.stat(path).st_mode & 0o777 == 0o600
    assert os.stat(os.path.dirname(path)).st_mode & 0o777 == 0o700


def test_many_small_buffers_arrive(directory: RunDirectory) -> None:
    blocks = [Block(b"%d" % number) for number in range(20_000)]
    handle: Any = directory.shared.share([*blocks, Block(bytes(3_000_000)), Block(b"last")])
    loaded = handle.value
    assert [bytes(block.memory) for block in loaded[:20_000]] == [b.memory for b in blocks]
    assert bytes(loaded[-1].memory) == b"last"


def test_a_buffer_that_is_not_contiguous_is_refused(directory: RunDirectory) -> None:
    with pytest.raises(pickle.PicklingError, match="type Block can't be shared"):
        directory.shared.share(Block(memoryview(bytes(100))[::2]))


def test_threads_that_share_equal_values_write_one_file(directory: RunDirectory) -> None:
    handles: list[Any] = []
    threads = [
        threading.Thread(target=lambda: handles.append(directory.shared.share([b"x" * 2_000_000])))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LIMIT_S)
    assert len(set(map(id, handles))) == 1
    assert _files(directory) == ["0"]


def _listed(memory: bytes) -> list[bytes]:
    return [memory]


@contextmanager
def _limited_files(limit: int) -> Generator[None]:
    """No file may become larger than so many bytes: a write fails as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.parametrize("make", [Block, _listed], ids=["buffer", "pickle"])
def test_a_value_without_room_is_an_error_and_leaves_nothing(
    make: Callable[[bytes], Any], directory: RunDirectory
) -> None:
    message = r"File too large: the value of type .* can't be shared"
    with _limited_files(1 << 20), pytest.raises(OSError, match=message) as caught:
        directory.shared.share(make(bytes(3 << 20)))
    assert caught.value.errno == errno.EFBIG
    assert _files(directory) == []
    handle: Any = directory.shared.share(make(bytes(3 << 20)))
    assert _files(directory) == ["1"]
    assert handle.value


def test_the_file_goes_with_the_last_reference_to_the_handle(directory: RunDirectory) -> None:
    handle = directory.shared.share([1])
    also = directory.shared.share([1])
    del handle
    gc.collect()
    assert _files(directory) == ["0"]
    del also
    gc.collect()
    assert _files(directory) == []
    directory.shared.share([1])


def test_files_stay_where_jobs_outlive_the_executor(directory: RunDirectory) -> None:
    handle = directory.shared.share([1])
    directory.shared.keeps_files = True
    del handle
    gc.collect()
    assert _files(directory) == ["0"]


def test_a_temporary_directory_goes_when_nobody_refers_to_it() -> None:
    files = TemporarySharedFiles()
    handle: Any = files.share([1])
    path = Path(os.fsdecode(_reference(handle)[0]))
    del files
    gc.collect()
    assert handle.value == [1]
    del handle
    gc.collect()
    assert not path.parent.parent.exists()


def test_a_handle_says_what_it_is(directory: RunDirectory) -> None:
    handle: Any = directory.shared.share({"a": 1})
    assert repr(handle).startswith("<shared value of type dict, ")
    with pytest.raises(AttributeError, match=r"has no attribute 'items': .* stands for the value"):
        handle.items()


def test_a_forked_child_can_use_a_handle_and_share_nothing(directory: RunDirectory) -> None:
    handle: Any = directory.shared.share([7])
    pickled = pickle.dumps(handle)
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            same = pickle.loads(pickle.dumps(handle)) == pickle.loads(pickled) == [7]
            try:
                directory.shared.share([8])
            except RuntimeError as error:
                code = 0 if same and "forked from" in str(error) else 2
            del handle
            gc.collect()
        finally:
            os._exit(code)
    assert os.waitpid(pid, 0)[1] == 0
    assert _files(directory) == ["0"]


# -- reading --


def test_threads_that_ask_at_the_same_time_read_it_once(directory: RunDirectory) -> None:
    reference = _reference(directory_handle := directory.shared.share([Slow()]))
    before = Slow.count
    found: list[Any] = []
    threads = [
        threading.Thread(target=lambda: found.append(load_shared(*reference))) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LIMIT_S)
    assert Slow.count == before + 1
    assert len(set(map(id, found))) == 1
    del directory_handle


def test_a_process_keeps_no_values_whose_files_are_gone(directory: RunDirectory) -> None:
    kept: Any = directory.shared.share(["kept"])
    before = kept.value
    for number in range(100):
        handle: Any = directory.shared.share([number])
        path, owner = _reference(handle)
        assert load_shared(path, owner) == [number]
        os.unlink(path)  # by another process, as far as the reader knows
    of_here = [path for path in shared_values._values if directory.path.encode() in path]
    assert len(of_here) < 10
    assert kept.value is before


@pytest.fixture
def late_s(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Sets how late the disk shows files."""

    def set_late_s(seconds: float) -> None:
        def late_files_s(_: str) -> float:
            return seconds

        monkeypatch.setattr(shared_values, "late_files_s", late_files_s)

    return set_late_s


def test_a_file_that_is_late_is_waited_for(
    directory: RunDirectory, late_s: Callable[[float], None]
) -> None:
    late_s(LIMIT_S)
    handle = directory.shared.share(Block(b"late"))
    path, owner = _reference(handle)
    whole = Path(os.fsdecode(path)).read_bytes()
    os.unlink(path)
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(load_shared(path, owner)))
    thread.start()
    wait_until(lambda: path in shared_values._values, "the reader")
    Path(os.fsdecode(path)).write_bytes(whole[:-1])
    assert not found
    Path(os.fsdecode(path)).write_bytes(whole)
    thread.join(LIMIT_S)
    assert bytes(found[0].memory) == b"late"
    assert load_shared(path, owner) is found[0]


@pytest.mark.parametrize("problem", ["is not there", "is cut short at 3 bytes"])
def test_a_file_that_never_comes_is_an_error_that_names_it(
    problem: str, directory: RunDirectory, late_s: Callable[[float], None]
) -> None:
    late_s(0.1)
    handle = directory.shared.share([1])
    path, owner = _reference(handle)
    os.unlink(path)
    if "short" in problem:
        Path(os.fsdecode(path)).write_bytes(b"abc")
    with pytest.raises(FileNotFoundError, match=rf"/shared/0 {problem} on .* cfut_dir has to be"):
        load_shared(path, owner)


def test_a_file_is_not_waited_for_once_its_executor_has_ended(
    directory: RunDirectory, late_s: Callable[[float], None]
) -> None:
    late_s(LIMIT_S)
    handle = directory.shared.share([1])
    reference = _reference(handle)
    directory.remove()
    began = time.monotonic()
    with pytest.raises(FileNotFoundError, match="while the executor that shared it is open"):
        load_shared(*reference)
    assert time.monotonic() - began < LIMIT_S / 2


def test_a_link_in_its_place_is_not_followed(directory: RunDirectory, tmp_path: Path) -> None:
    handle = directory.shared.share([1])
    path, owner = _reference(handle)
    os.rename(path, tmp_path / "elsewhere")
    os.symlink(tmp_path / "elsewhere", path)
    with pytest.raises(NotOurs, match="is a link"):
        load_shared(path, owner)


def test_a_file_of_another_user_is_not_unpickled(directory: RunDirectory) -> None:
    handle = directory.shared.share([1])
    path, owner = _reference(handle)
    with pytest.raises(NotOurs, match="belongs to the user"):
        load_shared(path, owner + 1)
