"""The files of shared values of executors that have no run directory: those of this machine."""

from __future__ import annotations

import os
import shutil
import tempfile
import weakref

from cluster_tools.format.run_files import SHARED
from cluster_tools.sharing import SharedFiles


class TemporarySharedFiles(SharedFiles):
    """Shared values in a temporary directory, which is made when the first one is shared.

    It is removed by `close`, else when nobody refers to this any more (handles do), and at exit.
    """

    def __init__(self) -> None:
        super().__init__()
        self._remove_directory: weakref.finalize[..., TemporarySharedFiles] | None = None

    def _make_directory(self) -> str:
        root = tempfile.mkdtemp(prefix="cluster_tools.")
        self._remove_directory = weakref.finalize(self, _remove_tree, root, os.getpid())
        path = os.path.join(root, SHARED)
        os.mkdir(path, 0o700)
        return path

    def close(self) -> None:
        """Removes the directory; no value is shared any more."""
        super().close()
        if self._remove_directory is not None:
            self._remove_directory()


def _remove_tree(root: str, pid: int) -> None:
    if os.getpid() == pid:  # not in a forked child
        shutil.rmtree(root, ignore_errors=True)
