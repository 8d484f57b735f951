"""Pickles of functions, arguments and results, on the client's side.

Plain pickle, unless something in it is not importable in a job: then cloudpickle, which takes lambdas,
closures and all of a `__main__` without a file (notebooks, `python -c`) by value. A script's own
functions and classes always go by reference, so that their identity and their module's globals are
kept; `cluster_tools.worker` imports the script under the name that `main_module` says.
"""

import io
import os
import pickle
import sys
import types
from types import ModuleType
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple, cast

from cluster_tools.worker import PICKLE_PROTOCOL

if TYPE_CHECKING:
    from typing_extensions import Buffer

_BY_VALUE_MARK = b"__main__"  # stands in each pickle that refers to the main module


class MainModule(NamedTuple):
    """The script that is running, as a job can import it."""

    # The name under which a job imports it.
    name: str
    path: str
    # Whether each job does so at once. An installed program (pytest, ipython) is imported only if a pickle
    # refers to it.
    at_once: bool


_WORKER_PATH = os.path.join(
    os.path.dirname(os.path.abspath(__file__)), "cluster", "start_worker.py"
)

# The main module that was last looked at, and what was found. At the end of a script the interpreter takes
# away its `__file__`, while calls may still be on their way.
_known_main: tuple[ModuleType | None, MainModule | None] = (None, None)


def main_module() -> MainModule | None:
    """The running script; None where there is no file that a job could import."""
    global _known_main
    main = sys.modules.get("__main__")
    if main is None or main is not _known_main[0]:
        _known_main = (main, None if main is None else _describe(main))
    return _known_main[1]


def _describe(main: ModuleType) -> MainModule | None:
    path = getattr(main, "__file__", None)
    if path is None or not os.path.isfile(path):
        return None
    path = os.path.abspath(path)
    if path == _WORKER_PATH:  # a job whose call has not asked for the client's main module
        return None
    spec = getattr(main, "__spec__", None)  # python -m, or a job, which has imported the script
    name = os.path.splitext(os.path.basename(path))[0] if spec is None else spec.name
    folder = os.path.dirname(path)
    installed = (
        folder == os.path.dirname(sys.executable)
        or folder in os.get_exec_path()
        or not {"site-packages", "dist-packages"}.isdisjoint(path.split(os.sep))
    )
    return MainModule(name, path, not installed)


def _importable_from_main(value: Any) -> bool:
    if getattr(value, "__module__", None) not in ("__main__", "__mp_main__"):
        return False
    found: Any = sys.modules["__main__"]
    for part in getattr(value, "__qualname__", "").split("."):
        found = getattr(found, part, None)
    return found is value


class Pieces(list[bytes]):
    """A pickle in pieces. Large data come to `write` by themselves, and those of `bytes` are not copied."""

    def write(self, data: "Buffer") -> None:
        if isinstance(data, pickle.PickleBuffer):
            data = data.raw()  # else it would be copied in another order than it lies in memory
        self.append(data if type(data) is bytes else bytes(data))


def dumps(value: object) -> bytes:
    """Pickles `value`; raises what pickle or cloudpickle raises where neither can."""
    return b"".join(dump_pieces(value))


def dump_pieces(value: object) -> Pieces:
    """The same, in pieces."""
    pieces = Pieces()
    try:
        pickle.dump(value, pieces, PICKLE_PROTOCOL)
    except Exception:
        return _dump_by_value(value)
    if main_module() is None and any(_BY_VALUE_MARK in piece for piece in pieces):
        return _dump_by_value(value)
    return pieces


def _dump_by_value(value: object) -> Pieces:
    import cloudpickle

    main_has_a_file = main_module() is not None

    class Pickler(cloudpickle.Pickler):
        def reducer_override(self, obj: Any) -> Any:
            if (
                main_has_a_file
                and isinstance(obj, (type, types.FunctionType))
                and _importable_from_main(obj)
            ):
                return NotImplemented  # pickle's own way: by reference
            return cast(Any, super()).reducer_override(obj)

    pieces = Pieces()
    cast(Any, Pickler(cast(Any, pieces), protocol=PICKLE_PROTOCOL)).dump(value)
    return pieces


class _Unpickler(pickle.Unpickler):
    """Maps the name under which a job has imported the script back to `__main__`."""

    def find_class(self, module_name: str, global_name: str, /) -> Any:
        main = main_module()
        if module_name == "__mp_main__" or (main is not None and module_name == main.name):
            module_name = "__main__"
        return super().find_class(module_name, global_name)


def loads(data: bytes) -> Any:
    return _Unpickler(io.BytesIO(data)).load()


def load(file: BinaryIO) -> Any:
    """The next pickle of `file`, whose position is then behind it."""
    return _Unpickler(file).load()
