"""Pickles of functions, arguments and results, on the client's side.

Plain pickle, unless something in it would not be found in a job: then cloudpickle, which takes lambdas,
closures and all of a `__main__` without a file (notebooks, `python -c`) by value. A script's own
functions and classes always go by reference, so that their identity and their module's globals are
kept; `cluster_tools.job.worker` imports the script under the name that `main_module` says.
"""

import functools
import io
import keyword
import os
import pickle
import sys
import types
from importlib.machinery import PathFinder
from types import ModuleType
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple, cast

from cluster_tools.by_reference import by_value_marks, dump_by_reference
from cluster_tools.format import PICKLE_PROTOCOL

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from typing_extensions import Buffer

_MAIN = "__main__"
# What `multiprocessing` calls the script in its processes.
_NAMELESS = "__mp_main__"
_CACHE = type(functools.lru_cache(len))


class MainModule(NamedTuple):
    """The script that is running, as a job can import it."""

    # The name under which a job imports it.
    name: str
    path: str
    # Whether that is the name of its `__spec__` (`python -m`); else a job's has none either.
    has_spec: bool
    # Whether each job does so at once; else only if a pickle refers to it. Not an installed program (pytest,
    # ipython), nor what is never imported otherwise and need not have a guard (a package's `__main__.py`).
    at_once: bool


# The main module that was last looked at, and what was found. At the end of a script the interpreter takes
# away its `__file__`, while calls may still be on their way.
_known_main: tuple[ModuleType | None, MainModule | None] = (None, None)


def main_module() -> MainModule | None:
    """The running script; None where there is no file that a job could import."""
    global _known_main
    main = sys.modules.get(_MAIN)
    if main is None or main is not _known_main[0]:
        _known_main = (main, None if main is None else _describe(main))
    return _known_main[1]


def _describe(main: ModuleType) -> MainModule | None:
    path = getattr(main, "__file__", None)
    if not isinstance(path, str) or not os.path.isfile(path) or _is_of_a_descriptor(path):
        return None
    path = os.path.abspath(path)
    spec_name = getattr(getattr(main, "__spec__", None), "name", None)
    own_name = vars(main).get("__name__")
    # That of a directory or zip is called `__main__`.
    has_spec = isinstance(spec_name, str) and spec_name != _MAIN
    if has_spec:
        name = cast(str, spec_name)
    elif own_name != _MAIN and isinstance(own_name, str) and sys.modules.get(own_name) is main:
        name = own_name  # a job, or a process of multiprocessing, which has imported the script
    else:
        stem = os.path.splitext(os.path.basename(path))[0]
        name = stem if _is_imported_as(stem, path) else _NAMELESS
    need_no_guard = isinstance(spec_name, str) and spec_name.rpartition(".")[2] == _MAIN
    return MainModule(name, path, has_spec, not (need_no_guard or _is_installed(name, path)))


def _is_of_a_descriptor(path: str) -> bool:
    """Whether it leads to what this process has open (/dev/stdin, /dev/fd/3): others have not."""
    for _ in range(40):  # as many links as Linux follows
        folder = os.path.realpath(os.path.dirname(path))
        if os.path.join(folder, "").startswith(("/proc/", "/dev/fd/")):
            return True
        if not os.path.islink(path):
            return False
        path = os.path.join(folder, os.readlink(path))
    return True


def _is_imported_as(name: str, path: str) -> bool:
    """Whether `import name` is sure to give this very file, also in what a job starts."""
    if (
        not name.isidentifier()
        or keyword.iskeyword(name)
        or name in sys.stdlib_module_names
        or name in sys.modules
    ):
        return False
    try:
        spec = PathFinder.find_spec(name)
    except Exception:  # what others have put into the path
        return False
    origin = spec.origin if spec is not None else None
    return origin is not None and os.path.realpath(origin) == os.path.realpath(path)


def _is_installed(name: str, path: str) -> bool:
    folder = os.path.dirname(path)
    return (
        folder == os.path.dirname(sys.executable)
        or folder in os.get_exec_path()
        or name.partition(".")[0] in sys.stdlib_module_names
        or not {"site-packages", "dist-packages"}.isdisjoint(path.split(os.sep))
    )


def _importable_from_main(value: Any) -> bool:
    if getattr(value, "__module__", None) not in (_MAIN, _NAMELESS):
        return False
    found: Any = sys.modules[_MAIN]
    for part in getattr(value, "__qualname__", "").split("."):
        found = getattr(found, part, None)
    return found is value


def _is_cache_of_here(value: Any, *, main_goes_by_value: bool) -> bool:
    """Whether it is one of `functools.lru_cache` that a job would not find under its name."""
    if type(value) is not _CACHE:
        return False
    module_name = getattr(value, "__module__", None)
    if module_name in (_MAIN, _NAMELESS):
        return main_goes_by_value or not _importable_from_main(value)
    found: Any = sys.modules.get(cast(str, module_name))
    for part in getattr(value, "__qualname__", "").split("."):
        found = getattr(found, part, None)
    return found is not value


def _new_cache(parameters: dict[str, Any], function: "Callable[..., Any]") -> Any:
    """What `functools.lru_cache` makes of a function."""
    return functools.lru_cache(**parameters)(function)


class Pieces(list[bytes]):
    """A pickle in pieces. Large data come to `write` by themselves, and those of `bytes` are not copied."""

    def write(self, data: "Buffer") -> None:
        if isinstance(data, pickle.PickleBuffer):
            data = data.raw()  # else it would be copied in another order than it lies in memory
        self.append(data if type(data) is bytes else bytes(data))


def dumps(value: object, refer: "Callable[[Any], Any] | None" = None) -> bytes:
    """Pickles `value`; raises what pickle or cloudpickle raises where neither can.

    `refer`: gives what stands for an object that does not go into this pickle, None for all others.
    """
    return b"".join(dump_pieces(value, refer))


def dump_pieces(value: object, refer: "Callable[[Any], Any] | None" = None) -> Pieces:
    """The same, in pieces."""
    pieces = Pieces()
    try:
        dump_by_reference(value, pieces, refer)
    except Exception:
        return _dump_by_value(value, refer)
    return _dump_by_value(value, refer) if goes_by_value(pieces) else pieces


def goes_by_value(pieces: "Iterable[bytes]") -> bool:
    """Whether a pickle refers to what a job can't import, or what the user wants to go by value."""
    marks = by_value_marks()
    if main_module() is None:
        marks.append(_MAIN.encode())
    if not marks:
        return False
    return any(mark in piece for piece in pieces for mark in marks)


def _dump_by_value(value: object, refer: "Callable[[Any], Any] | None") -> Pieces:
    pieces = Pieces()
    value_pickler(pieces, refer).dump(value)
    return pieces


def value_pickler(pieces: Pieces, refer: "Callable[[Any], Any] | None" = None) -> pickle.Pickler:
    """A pickler that takes by value what a job can't import."""
    import cloudpickle

    goes_by_reference = main_module() is not None and _MAIN.encode() not in by_value_marks()

    class Pickler(cloudpickle.Pickler):
        def reducer_override(self, obj: Any) -> Any:
            if (
                goes_by_reference
                and isinstance(obj, (type, types.FunctionType))
                and _importable_from_main(obj)
            ):
                return NotImplemented  # pickle's own way: by reference
            # Of a cache, cloudpickle knows the name only.
            if _is_cache_of_here(obj, main_goes_by_value=not goes_by_reference):
                cache: Any = obj
                return _new_cache, (cache.cache_parameters(), cache.__wrapped__)
            return cast(Any, super()).reducer_override(obj)

    if refer is not None:  # the pickler asks of each object, where it has this method
        Pickler.persistent_id = staticmethod(refer)  # type: ignore[method-assign, assignment]
    return cast(Any, Pickler(cast(Any, pieces), protocol=PICKLE_PROTOCOL))


class _Unpickler(pickle.Unpickler):
    """Maps the name under which a job has imported the script back to `__main__`."""

    def find_class(self, module_name: str, global_name: str, /) -> Any:
        main = main_module()
        if module_name == _NAMELESS or (main is not None and module_name == main.name):
            module_name = _MAIN
        return super().find_class(module_name, global_name)


class _ResolvingUnpickler(_Unpickler):
    def __init__(self, data: bytes, resolve: "Callable[[Any], Any]"):
        self._resolve = resolve
        super().__init__(io.BytesIO(data))

    def persistent_load(self, pid: Any, /) -> Any:
        return self._resolve(pid)


def loads(data: bytes, resolve: "Callable[[Any], Any] | None" = None) -> Any:
    """`resolve`: gives the object for which `refer` of `dumps` gave something else."""
    if resolve is not None:
        return _ResolvingUnpickler(data, resolve).load()
    return _Unpickler(io.BytesIO(data)).load()


def load(file: BinaryIO) -> Any:
    """The next pickle of `file`, whose position is then behind it."""
    return _Unpickler(file).load()
