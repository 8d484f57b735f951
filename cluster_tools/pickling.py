"""Pickles functions, arguments and results, on the client's side.

With plain pickle, unless a job could not import something in it: then with cloudpickle, which
pickles lambdas, closures and everything of a `__main__` without a file (notebooks, `python -c`) by
value. Functions and classes of a script always go by reference, so that their identity and the
globals of their module are kept; `cluster_tools.job.worker` imports the script under the name that
`main_module` says. Knows pickles and modules, no calls.
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

from cluster_tools.by_reference import by_value_marks, dump_by_reference, reference_pickler
from cluster_tools.format import PICKLE_PROTOCOL

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from typing_extensions import Buffer

_MAIN = "__main__"
# The name of the script in processes of `multiprocessing`, and in jobs if it has no other.
_NAMELESS = "__mp_main__"
_CACHE = type(functools.lru_cache(len))


class MainModule(NamedTuple):
    """The script that is running, as a job can import it."""

    # The name under which a job imports it.
    name: str
    path: str
    # Whether that is the name of its `__spec__` (`python -m`). If not, it
    # has no spec in a job either.
    has_spec: bool
    # Whether each job imports it before its call; else only if a pickle refers to it. False for
    # installed programs (pytest, ipython), and for a package's `__main__.py`, which is never
    # imported otherwise and need not have a guard.
    at_once: bool


# The main module that was described last, and its description. Kept, since the interpreter deletes
# `__main__.__file__` at the end of a script, when calls may still be submitted.
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
    # The spec of a directory or a zip file has the name `__main__`.
    has_spec = isinstance(spec_name, str) and spec_name != _MAIN
    if has_spec:
        name = cast(str, spec_name)
    elif own_name != _MAIN and isinstance(own_name, str) and sys.modules.get(own_name) is main:
        name = own_name  # in a job or a process of multiprocessing, which has imported the script
    else:
        stem = os.path.splitext(os.path.basename(path))[0]
        name = stem if _is_imported_as(stem, path) else _NAMELESS
    need_no_guard = isinstance(spec_name, str) and spec_name.rpartition(".")[2] == _MAIN
    return MainModule(name, path, has_spec, not (need_no_guard or _is_installed(name, path)))


def _is_of_a_descriptor(path: str) -> bool:
    """Whether it is a file descriptor of this process (/dev/stdin, /dev/fd/3), which jobs lack."""
    for _ in range(40):  # Linux follows so many links
        folder = os.path.realpath(os.path.dirname(path))
        if os.path.join(folder, "").startswith(("/proc/", "/dev/fd/")):
            return True
        if not os.path.islink(path):
            return False
        path = os.path.join(folder, os.readlink(path))
    return True


def _is_imported_as(name: str, path: str) -> bool:
    """Whether `import name` certainly imports this file, also in processes that a job starts."""
    if (
        not name.isidentifier()
        or keyword.iskeyword(name)
        or name in sys.stdlib_module_names
        or name in sys.modules
    ):
        return False
    try:
        spec = PathFinder.find_spec(name)
    except Exception:  # of a path hook or an entry of `sys.path` that others have added
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
    """Whether this is a `functools.lru_cache` that a job would not find under its name."""
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
    """Makes a `functools.lru_cache` of a function again, in the job."""
    return functools.lru_cache(**parameters)(function)


class Fragments(list[bytes]):
    """A file for picklers that keeps what they write, in fragments.

    Picklers write large objects by themselves, and those of type `bytes` are not copied here.
    """

    def write(self, fragment: "Buffer") -> None:
        """Called by a pickler."""
        if isinstance(fragment, pickle.PickleBuffer):
            fragment = fragment.raw()  # in the order of its memory, whatever its strides
        self.append(fragment if type(fragment) is bytes else bytes(fragment))


def dumps(value: object, refer: "Callable[[Any], Any] | None" = None) -> bytes:
    """Pickles `value`. Raises: what cloudpickle raises, if neither pickle nor cloudpickle can.

    `refer`: returns a reference for an object that does not go into this pickle, and None for all
    others.
    """
    return b"".join(dump_fragments(value, refer))


def dump_fragments(value: object, refer: "Callable[[Any], Any] | None" = None) -> Fragments:
    """The same, in fragments: whoever writes them to a file needs no copy of large ones."""
    fragments = Fragments()
    try:
        dump_by_reference(value, fragments, refer)
    except Exception:
        return _dump_by_value(value, refer)
    return _dump_by_value(value, refer) if goes_by_value(fragments) else fragments


def dump_with_buffers(value: object) -> tuple[Fragments, list[memoryview]]:
    """The same, with buffers (the memory of arrays) beside the pickle, uncopied.

    Returns: the pickle, and its buffers as `pickle.load` wants them, each as contiguous bytes.
    Raises: what cloudpickle raises, if neither pickle nor cloudpickle can.
    """
    fragments = Fragments()
    buffers: list[memoryview] = []

    def take_buffer(buffer: pickle.PickleBuffer) -> None:
        buffers.append(buffer.raw())

    try:
        reference_pickler(fragments, take_buffer=take_buffer).dump(value)
        is_done = not goes_by_value(fragments)
    except Exception:
        is_done = False
    if not is_done:
        fragments.clear()
        buffers.clear()
        value_pickler(fragments, take_buffer=take_buffer).dump(value)
    return fragments, buffers


def goes_by_value(fragments: "Iterable[bytes]") -> bool:
    """Whether this pickle refers to a module that a job can't import, or that must go by value."""
    marks = by_value_marks()
    if main_module() is None:
        marks.append(_MAIN.encode())
    if not marks:
        return False
    return any(mark in fragment for fragment in fragments for mark in marks)


def _dump_by_value(value: object, refer: "Callable[[Any], Any] | None") -> Fragments:
    fragments = Fragments()
    value_pickler(fragments, refer).dump(value)
    return fragments


def value_pickler(
    fragments: Fragments,
    refer: "Callable[[Any], Any] | None" = None,
    take_buffer: "Callable[[pickle.PickleBuffer], object] | None" = None,
) -> pickle.Pickler:
    """A pickler of cloudpickle: pickles by value what a job can't import.

    `take_buffer`: as of `by_reference.reference_pickler`.
    """
    import cloudpickle

    goes_by_reference = main_module() is not None and _MAIN.encode() not in by_value_marks()

    class Pickler(cloudpickle.Pickler):
        def reducer_override(self, obj: Any) -> Any:
            if (
                goes_by_reference
                and isinstance(obj, (type, types.FunctionType))
                and _importable_from_main(obj)
            ):
                return NotImplemented  # by reference, as pickle does it
            # cloudpickle pickles each cache by its name.
            if _is_cache_of_here(obj, main_goes_by_value=not goes_by_reference):
                cache: Any = obj
                return _new_cache, (cache.cache_parameters(), cache.__wrapped__)
            return cast(Any, super()).reducer_override(obj)

    if refer is not None:  # a pickler with this method calls it for each object, which takes time
        Pickler.persistent_id = staticmethod(refer)  # type: ignore[method-assign, assignment]
    return cast(
        Any,
        Pickler(
            cast(Any, fragments),
            protocol=PICKLE_PROTOCOL,
            buffer_callback=cast(Any, take_buffer),
        ),
    )


class _Unpickler(pickle.Unpickler):
    """Maps the name under which a job has imported the script back to `__main__`."""

    def find_class(self, module_name: str, global_name: str, /) -> Any:
        main = main_module()
        if module_name == _NAMELESS or (main is not None and module_name == main.name):
            module_name = _MAIN
        return super().find_class(module_name, global_name)


class _ResolvingUnpickler(_Unpickler):
    """The same, for pickles with references to other objects."""

    def __init__(self, pickled: bytes, resolve: "Callable[[Any], Any]"):
        self._resolve = resolve
        super().__init__(io.BytesIO(pickled))

    def persistent_load(self, pid: Any, /) -> Any:
        return self._resolve(pid)


def loads(pickled: bytes, resolve: "Callable[[Any], Any] | None" = None) -> Any:
    """Unpickles. `resolve`: returns the object for a reference of `refer` of `dumps`."""
    if resolve is not None:
        return _ResolvingUnpickler(pickled, resolve).load()
    return _Unpickler(io.BytesIO(pickled)).load()


def load(file: BinaryIO) -> Any:
    """Reads and unpickles the next pickle of `file`."""
    return _Unpickler(file).load()
