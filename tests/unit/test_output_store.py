"""Promises of FileOutputStore that its users in executors do not show."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import pytest

from cluster_tools import FileOutputStore


@pytest.fixture
def store(tmp_path: Path) -> FileOutputStore:
    return FileOutputStore(tmp_path)


@pytest.mark.parametrize("first_is_success", [True, False])
def test_only_what_was_written_last_exists(
    store: FileOutputStore, tmp_path: Path, first_is_success: bool
) -> None:
    key = str(tmp_path / "key")
    store.write(key, b"first", success=first_is_success)
    store.write(key, b"second", success=not first_is_success)
    assert store.read(key) == b"second"
    (file,) = tmp_path.iterdir()
    assert file.name == ("key.preliminary" if first_is_success else "key")


@pytest.mark.parametrize("success", [True, False])
def test_poll_finds_both_kinds_and_delete_removes_them(
    store: FileOutputStore, tmp_path: Path, success: bool
) -> None:
    key, other_key = str(tmp_path / "key"), str(tmp_path / "other")
    store.write(key, b"output", success=success)
    assert store.poll([key, other_key]) == {key}
    store.delete(key)
    store.delete(key)
    assert store.poll([key, other_key]) == set()
    with pytest.raises(FileNotFoundError):
        store.read(key)


def test_a_write_that_fails_leaves_nothing(store: FileOutputStore, tmp_path: Path) -> None:
    directory_in_the_way = tmp_path / "key"
    directory_in_the_way.mkdir()
    with pytest.raises(OSError, match="key"):
        store.write(str(directory_in_the_way), b"output", success=True)
    assert list(tmp_path.iterdir()) == [directory_in_the_way]


def test_a_key_may_be_as_long_as_its_failures_name_allows(
    store: FileOutputStore, tmp_path: Path
) -> None:
    longest = os.pathconf(tmp_path, "PC_NAME_MAX") - len(".preliminary")
    key = str(tmp_path / ("k" * longest))
    store.write(key, b"output", success=True)
    assert Path(key).read_bytes() == b"output"


def test_default_keys_lie_in_the_directory(store: FileOutputStore, tmp_path: Path) -> None:
    assert store.default_key("12_3") == str(tmp_path / "cfut.out.12_3.pickle")
    with pytest.raises(ValueError, match="directory"):
        FileOutputStore().default_key("12_3")


def test_resolve_key_makes_paths_absolute(
    store: FileOutputStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert store.resolve_key("key") == str(tmp_path / "key")


def test_a_store_can_be_pickled(store: FileOutputStore) -> None:
    assert pickle.loads(pickle.dumps(store)).directory == store.directory
