"""Pickles functions and classes by reference: as the names under which they are imported.

For calls on their way to jobs, and results on their way back. Others decide about objects that
can't be pickled so. A job imports this when it starts, so it imports little.
"""

from __future__ import annotations

import copyreg  # pickle imports it, too
import sys
from types import MethodType

from cluster_tools.format import PICKLE_PROTOCOL

TYPE_CHECKING = False  # `typing` costs as much as all the rest
if TYPE_CHECKING:
    import pickle
    from collections.abc import Callable
    from typing import Any
else:
    try:
        import _pickle as pickle  # without `re`, which takes long to import
    except ImportError:  # another implementation of Python
        import pickle


def reduce_method(method: Any) -> tuple[Any, ...]:
    """How to pickle a bound method: `getattr` with its object and the right name.

    Pickle itself uses the function's name. That is wrong for a private method (`__work` is
    `_Class__work`), for one from `super()`, and for one that was assigned under another name.

    Raises: pickle.PicklingError, where its class has it under no name.
    """
    owner, function = method.__self__, method.__func__
    own_name = getattr(function, "__name__", None)
    if isinstance(own_name, str) and _is_bound_as(method, own_name):
        return getattr, (owner, own_name)
    for cls in (owner if isinstance(owner, type) else type(owner)).__mro__:
        for name, member in list(vars(cls).items()):
            found: Any = member.__func__ if type(member) is classmethod else member  # pyright: ignore
            if found is function and _is_bound_as(method, name):
                return getattr, (owner, name)
    raise pickle.PicklingError(f"{method!r} is not found under the name {own_name!r}")


def _is_bound_as(method: Any, name: str) -> bool:
    try:
        found = getattr(method.__self__, name)
        function, other = method.__func__, found.__func__
        return (
            type(found) is MethodType
            and found.__self__ is method.__self__
            # A descriptor may make a new function each time.
            and (
                other is function
                or (other.__module__, other.__qualname__)
                == (function.__module__, function.__qualname__)
            )
        )
    except Exception:  # the class may define attribute access as it likes
        return False


_reducers: dict[type, Any] = {MethodType: reduce_method}


class _ByReference(pickle.Pickler):
    dispatch_table: Any = _reducers  # on the class: setting it on each pickler takes longer


class _Referring(_ByReference):
    """The same, with references to objects that do not go into the pickle."""

    def __init__(self, file: Any, refer: Callable[[Any], Any]):
        self._refer = refer
        super().__init__(file, PICKLE_PROTOCOL)

    def persistent_id(self, obj: Any) -> Any:
        return self._refer(obj)


def dump_by_reference(value: object, file: Any, refer: Callable[[Any], Any] | None = None) -> None:
    """Pickles `value` to `file`, functions and classes as the names under which they are imported.

    `refer`: returns a reference for an object that does not go into this pickle, and None for all
    others. Raises: what pickle raises, also for methods that could not be found again.
    """
    reference_pickler(file, refer).dump(value)


def reference_pickler(
    file: Any,
    refer: Callable[[Any], Any] | None = None,
    take_buffer: Callable[[pickle.PickleBuffer], object] | None = None,
) -> pickle.Pickler:
    """The pickler of `dump_by_reference`.

    `take_buffer`: is given the buffers (the memory of arrays), which then do not go into this
    pickle; not with `refer`.
    """
    _reducers.update(copyreg.dispatch_table)
    if take_buffer is not None:
        return _ByReference(file, PICKLE_PROTOCOL, buffer_callback=take_buffer)
    return _ByReference(file, PICKLE_PROTOCOL) if refer is None else _Referring(file, refer)


def by_value_marks() -> list[bytes]:
    """Names of the modules of `cloudpickle.register_pickle_by_value`.

    A pickle by reference that uses such a module has one of these in it.
    """
    cloudpickle = sys.modules.get("cloudpickle.cloudpickle")
    registered = getattr(cloudpickle, "list_registry_pickle_by_value", None)
    return [name.encode() for name in registered()] if registered is not None else []
