"""Packs exceptions as bytes and unpacks them, whatever their classes do.

    where the call ran                                            where its future is
    failure_bytes: text, and a row for each       bytes           unpack: makes all of them, then
    exception that the one raised leads to  -----------------> fills and links them

A row has what the class's own pickling (`__reduce__` and so on) gives, if that makes the same
exception again. And it has each argument and attribute by itself, so that those which can't be
pickled or unpickled are replaced by their text, and the others arrive. Exceptions refer to each
other (causes, contexts, groups, attributes) by the numbers of their rows.

Knows exceptions and pickles. Reads attributes of exceptions and classes by the interpreter's own
types (`type.__mro__`, `BaseException.args`), since users' classes may define them otherwise.
"""

from __future__ import annotations

import builtins
import copyreg
import pickle
import sys
import traceback
from collections.abc import Callable
from importlib import import_module
from types import (
    BuiltinFunctionType,
    GetSetDescriptorType,
    MemberDescriptorType,
    ModuleType,
    TracebackType,
    WrapperDescriptorType,
)
from typing import Any, cast
from weakref import WeakValueDictionary

from cluster_tools import pickling
from cluster_tools.format import PICKLE_PROTOCOL
from cluster_tools.format.numbers import NUMBER_BYTES, pack_numbers
from cluster_tools.function_name import exception_text, type_name

Row = dict[str, Any]

_HEAP_TYPE = 1 << 9  # Py_TPFLAGS_HEAPTYPE in Include/object.h: a class made at run time
# How many exceptions that led to one are packed with it: chains may be endless.
_MAX_EXCEPTIONS = 10_000
# Up to this size, values that were pickled together are also pickled one by one, in case that one
# of them can't be unpickled where it arrives.
_MAX_TWICE_BYTES = 1 << 20
# How much of a `repr` is kept.
_MAX_TEXT_CHARACTERS = 10_000
# A reference to the exception's own class, in what its own pickling gives.
_ITS_CLASS = "class"
# Names that stand for other modules in other processes.
_PROCESS_MODULES = ("__main__", "__mp_main__")
_PLAIN_TYPES = {id(t): t for t in (type(None), bool, int, float, complex, str, bytes)}

_BUILT_IN = {
    id(c): c
    for c in (object, *vars(builtins).values())
    if isinstance(c, type) and (c is object or issubclass(c, BaseException))
}
_GROUP: type[BaseException] | None = getattr(builtins, "BaseExceptionGroup", None)  # from 3.11 on

# id -> class `(T, RemoteException)`. By id, as a metaclass may define `==` as it likes.
_combined: WeakValueDictionary[int, type[BaseException]] = WeakValueDictionary()


class UnknownException(Exception):
    """Stands for an exception whose class this process can't import, or that it can't make."""


# -- reading by the interpreter's own types
# ---------------------------------------------------------


def _type(value: Any) -> type[Any]:
    return cast("type[Any]", type(value))


def mro(cls: type) -> tuple[type, ...]:
    """The method resolution order of a class."""
    return vars(type)["__mro__"].__get__(cls)


def class_attributes(cls: type) -> dict[str, Any]:
    """The attributes that a class itself defines."""
    return vars(type)["__dict__"].__get__(cls)


def get(exc: BaseException, name: str) -> Any:
    """The interpreter's own value of `args`, `__cause__` and so on, whatever the class defines."""
    return vars(BaseException)[name].__get__(exc)


def put(exc: BaseException, name: str, value: object) -> None:
    """Sets what `get` returns."""
    vars(BaseException)[name].__set__(exc, value)


def is_exception(value: object, cls: type[BaseException] = BaseException) -> bool:
    """Whether `except cls` would catch it. `isinstance` also reads `__class__`, which may lie."""
    return issubclass(type(value), cls)


def register(combined: type[BaseException]) -> None:
    """Notes that this is a class `(T, RemoteException)`."""
    _combined[id(combined)] = combined


def original_class(exc: BaseException) -> type[BaseException]:
    """The type of `exc`; T if that is a class `(T, RemoteException)`."""
    return mro(type(exc))[1] if id(type(exc)) in _combined else type(exc)


def defined(cls: type, name: str) -> tuple[type, Any] | None:
    """(class, value) of the first class in the method resolution order that defines `name`."""
    for c in mro(cls):
        if name in class_attributes(c):
            return c, class_attributes(c)[name]
    return None


def _own_method(exc: BaseException, name: str) -> Callable[..., Any] | None:
    """A method, if the class defines it itself; None if it is the interpreter's."""
    cls = original_class(exc)
    found = defined(cls, name)
    if found is None or id(found[0]) in _BUILT_IN or found[1] is None:
        return None
    return found[1].__get__(exc, cls) if hasattr(_type(found[1]), "__get__") else found[1]


def _members(exc: BaseException) -> dict[str, Any]:
    """The attributes in slots, and those of types written in C (`OSError.errno`)."""
    found: dict[str, Any] = {}
    for cls in mro(type(exc)):
        if cls is _GROUP:  # a group gets its own when it is made
            break
        is_heap_type = vars(type)["__flags__"].__get__(cls) & _HEAP_TYPE
        for name, member in class_attributes(cls).items():
            if (
                not issubclass(type(member), (MemberDescriptorType, GetSetDescriptorType))
                or name.startswith("__")
                or name == "args"
                # `AttributeError.obj` is the whole object, of any kind and size.
                or (name == "obj" and id(cls) in _BUILT_IN)
            ):
                continue
            try:
                value = member.__get__(exc)
            except Exception:  # not set
                continue
            # Attributes of C types that are not set read as None, but setting them to None differs:
            # an OSError whose `filename` was set to None prints "[Errno None] None: None".
            if value is not None or is_heap_type:
                found.setdefault(name, value)
    return found


def _attributes(exc: BaseException) -> dict[tuple[str, bool], Any]:
    """(name, whether it is one of `_members`) -> value, of all attributes."""
    found = {(name, True): value for name, value in _members(exc).items()}
    for name, value in dict(get(exc, "__dict__")).items():
        found[name, False] = value
    return found


def _set_attribute(exc: BaseException, name: str, is_member: bool, value: object) -> None:
    if not is_member:
        get(exc, "__dict__")[name] = value
        return
    found = defined(type(exc), name)
    try:
        if found is not None:
            found[1].__set__(exc, value)
    except Exception:  # read-only: computed by C code
        pass


# -- text
# -------------------------------------------------------------------------------------------


def traceback_text(exc: BaseException, frames_to_hide: int = 0) -> str:
    """The text that the interpreter prints. `frames_to_hide`: how many frames at its beginning."""
    frames = get(exc, "__traceback__")
    for _ in range(frames_to_hide):
        frames = frames.tb_next if frames is not None else None
    try:
        if exc:  # if `bool(exc)` is False, Pythons before 3.13 leave out causes and contexts
            return "".join(traceback.format_exception(type(exc), exc, frames))
    except BaseException:  # its class may do anything
        pass
    return _text_of_each(exc, frames)


def _text_of_each(exc: BaseException, frames: TracebackType | None) -> str:
    """The same, each exception by itself, so that one that can't be formatted costs no other."""
    texts: list[str] = []
    seen: set[int] = set()
    current: BaseException | None = exc
    while current is not None and id(current) not in seen and len(seen) < _MAX_EXCEPTIONS:
        seen.add(id(current))
        texts.append(_text_alone(current, frames))
        before, cause, context = current, get(current, "__cause__"), get(current, "__context__")
        current = cause
        if cause is not None:
            texts.append(
                "\nThe above exception was the direct cause of the following exception:\n\n"
            )
        elif context is not None and not get(before, "__suppress_context__"):
            current = context
            texts.append(
                "\nDuring handling of the above exception, another exception occurred:\n\n"
            )
        frames = None if current is None else get(current, "__traceback__")
    return "".join(reversed(texts))


def _text_alone(exc: BaseException, frames: TracebackType | None) -> str:
    try:
        return "".join(traceback.format_exception(type(exc), exc, frames, chain=False))
    except BaseException:
        head = "Traceback (most recent call last):\n" if frames is not None else ""
        return f"{head}{''.join(traceback.format_tb(frames))}{exception_text(exc)}\n"


def _value_text(value: object) -> str:
    try:
        return str.__str__(repr(value))[:_MAX_TEXT_CHARACTERS]
    except BaseException:  # its class may do anything in __repr__
        return f"<{type_name(value)}>"


# -- packing
# ----------------------------------------------------------------------------------------


def failure_bytes(
    exc: BaseException, frames_to_hide: int = 0, note: str = "", *, kept: bool = False
) -> bytes:
    """The output of a failed call: the pickled pair `(False, traceback text)`, then the exception.

    The exception is first pickled as type, arguments and attributes, if the output is `kept` for
    others to read; then come the rows, and their length in bytes.

    `frames_to_hide`: of ours, at the beginning of the traceback. `note`: is added to the text.
    """
    text = traceback_text(exc, frames_to_hide) + note
    rows = pack(exc)
    parts = _for_others(exc) if kept else b""
    pair = pickle.dumps((False, text), PICKLE_PROTOCOL)
    return b"".join((pair, parts, rows, pack_numbers(len(rows))))


def rows_of(failure: bytes) -> list[Row] | None:
    """The rows in the output of a failed call; None if there are none."""
    length = int.from_bytes(failure[-NUMBER_BYTES:], "little")
    try:
        return pickle.loads(failure[-NUMBER_BYTES - length : -NUMBER_BYTES])
    except Exception:  # another version has written it
        return None


def _for_others(exc: BaseException) -> bytes:
    """The pickled (type, arguments, attributes); values that can't be pickled as text."""
    args: tuple[Any, ...] = get(exc, "args")
    state = {name: value for (name, _), value in _attributes(exc).items()}
    cls = original_class(exc)
    try:
        return pickling.dumps((cls, args, state))
    except BaseException:  # values may do anything when they are pickled
        pass
    try:
        args = tuple(map(_value_or_text, args))
        return pickling.dumps((cls, args, {n: _value_or_text(v) for n, v in state.items()}))
    except BaseException:
        return b""


def _value_or_text(value: object) -> object:
    try:
        pickling.dumps(value)
    except BaseException:
        return _value_text(value)
    return value


def pack(exc: BaseException) -> bytes:
    """The pickled rows of an exception; b"" if even that fails. Raises nothing."""
    try:
        return pickle.dumps(_Packing(exc).rows(), PICKLE_PROTOCOL)
    except BaseException:
        return b""


class _Packing:
    """Makes the rows of an exception and of all exceptions that it refers to."""

    def __init__(self, exc: BaseException):
        self._exceptions: list[BaseException] = []
        self._numbers: dict[int, int] = {}
        self._number(exc)

    def rows(self) -> list[Row]:
        rows: list[Row] = []
        for exc in self._exceptions:  # the list grows meanwhile
            rows.append(self._row(exc))
        return rows

    def _number(self, exc: BaseException | None) -> int | None:
        """The number of this exception's row; None if there is none, or there are too many."""
        if exc is None:
            return None
        number = self._numbers.get(id(exc))
        if number is None and len(self._exceptions) < _MAX_EXCEPTIONS:
            number = self._numbers[id(exc)] = len(self._exceptions)
            self._exceptions.append(exc)
        return number

    def _dump(self, value: object, but: BaseException | None = None) -> bytes:
        """Pickles a value, with references to exceptions in it.

        `but`: the exception of whose own pickling the value is; its class becomes a reference, too.
        """

        def refer(obj: Any) -> Any:
            if but is not None and (obj is type(but) or obj is original_class(but)):
                return _ITS_CLASS
            return self._number(obj) if is_exception(obj) else None

        return pickling.dumps(value, refer)

    def _row(self, exc: BaseException) -> Row:
        cls = original_class(exc)
        row: Row = {
            "classes": self._classes(cls),
            "text": f"{_class_name(cls)}{exception_text(exc).removeprefix(type_name(exc))}",
            "is_remote": cls is not type(exc),
            "cause": self._number(get(exc, "__cause__")),
            "context": self._number(get(exc, "__context__")),
            "suppresses_context": get(exc, "__suppress_context__"),
            "group": self._group(exc),
        }
        args, attributes = get(exc, "args"), _attributes(exc)
        row["argument_count"] = len(args)
        row["names"] = list(attributes)
        row.update(self._values([*args, *attributes.values()]))
        row.update(self._own_pickling(exc, args, attributes))
        return row

    def _classes(self, cls: type) -> list[bytes]:
        """Pickles of the class and its bases, up to the first one of the interpreter's."""
        pickles: list[bytes] = []
        for c in mro(cls):
            if not issubclass(c, BaseException):
                continue
            if c is not cls and (c is Exception or c is BaseException):  # too general to be of use
                break
            try:
                pickles.append(pickling.dumps(_Renamed.found(c) or c))
            except BaseException:  # its metaclass may do anything
                pickles.append(b"")
            if id(c) in _BUILT_IN:
                break
        return pickles

    def _group(self, exc: BaseException) -> tuple[str, list[int | None]] | None:
        if _GROUP is None or not is_exception(exc, _GROUP):
            return None
        members = vars(_GROUP)
        message, exceptions = members["message"].__get__(exc), members["exceptions"].__get__(exc)
        return message, [self._number(member) for member in exceptions]

    def _values(self, values: list[Any]) -> Row:
        """The part of the row with the arguments and attributes."""
        if all(id(_type(value)) in _PLAIN_TYPES for value in values):
            return {"values": values}
        together = self._dump_or_nothing(values)  # an object that two values share stays one object
        if len(together) > _MAX_TWICE_BYTES:
            return {"together": together, "one_by_one": []}
        one_by_one = [self._one(value) for value in values]
        if not together:  # some can't be pickled: the others, together
            texts = (one if isinstance(one, str) else None for one in one_by_one)
            together = self._dump_or_nothing(
                [value if text is None else text for value, text in zip(values, texts)]
            )
        places = {id(value): number for number, value in reversed([*enumerate(values)])}
        return {
            "together": together,
            # For a value that is the same as an earlier one, the number of that.
            "one_by_one": [
                one if places[id(value)] == number else places[id(value)]
                for number, (one, value) in enumerate(zip(one_by_one, values))
            ],
        }

    def _dump_or_nothing(self, values: list[Any]) -> bytes:
        try:
            return self._dump(values)
        except BaseException:  # values may do anything when they are pickled
            return b""

    def _one(self, value: object) -> bytes | str:
        try:
            return self._dump(value)
        except BaseException:
            return _value_text(value)

    # -- the class's own pickling --

    def _own_pickling(
        self, exc: BaseException, args: tuple[Any, ...], attributes: dict[tuple[str, bool], Any]
    ) -> Row:
        """The part of the row with what the class's own pickling gives, and what it leaves out.

        Empty if that does not make the same exception again.
        """
        try:
            own = _reduction(exc)
            if own is None:
                return {}
            made, state = own
            row = self._checked(exc, args, attributes, made, state)
            left_out: list[int] = row.get("left_out", [])
            lost = [list(attributes)[number] for number in left_out]
            members = {name: attributes[name, True] for name, is_member in lost if is_member}
            if members and _own_method(exc, "__setstate__") is not None:
                # psycopg2's `__reduce__` leaves `pgcode` out if there are other attributes, but its
                # `__setstate__` takes it.
                more: dict[str, Any] = {**(state[0] if state is not None else {}), **members}
                row = self._checked(exc, args, attributes, made, (more, None)) or row
            return row
        except BaseException:  # this runs the user's code
            return {}

    def _checked(
        self,
        exc: BaseException,
        args: tuple[Any, ...],
        attributes: dict[tuple[str, bool], Any],
        made: Any,
        state: Any,
    ) -> Row:
        """The same for these (function, arguments) and (state, setter); tries them on a copy."""
        row: Row = {
            "made": None if made is None else self._dump(made, exc),
            "state": None if state is None else self._dump(state, exc),
        }
        copy = self._copy(exc, args, row)
        if type(copy) is not original_class(exc):
            return {}
        # Most often its constructor takes other arguments than it passes to its base class.
        if not self._same_args(get(copy, "args"), args) and _has_parts(exc, args):
            return {}
        row["left_out"] = _left_out(exc, attributes, _attributes(copy))
        return row

    def _copy(self, exc: BaseException, args: tuple[Any, ...], row: Row) -> BaseException:
        cls: Any = original_class(exc)

        def resolve(reference: int | str) -> object:
            return cls if isinstance(reference, str) else self._exceptions[reference]

        if row["made"] is None:
            copy = _bare(cls, args, None)
            _set_args(copy, args)
        else:
            function, arguments = pickling.loads(row["made"], resolve)
            copy = function(*arguments)
        if row["state"] is not None and is_exception(copy):
            _set_state(copy, *pickling.loads(row["state"], resolve))
        return copy

    def _same_args(self, copied: tuple[Any, ...], args: tuple[Any, ...]) -> bool:
        return len(copied) == len(args) and all(
            _is_like(mine, other) or type(self._one(mine)) is str
            for mine, other in zip(args, copied)
        )


class _Renamed:
    """Pickles as the class of this name in this module, whatever `__module__` of the class is."""

    def __init__(self, module: str, name: str):
        self._module, self._name = module, name

    def __reduce__(self) -> tuple[Any, ...]:
        return _imported, (self._module, self._name)

    @classmethod
    def found(cls, wanted: type) -> _Renamed | None:
        """Where this class can be imported from, if not from its `__module__`; else None.

        pytest sets that to "builtins", so that tracebacks are shorter.
        """
        name = vars(type)["__qualname__"].__get__(wanted)
        module_said = class_attributes(wanted).get("__module__")
        # Types written in C have it elsewhere, and it is right.
        if "." in name or type(module_said) is not str:
            return None
        if _has(sys.modules.get(module_said), name, wanted):
            return None
        for module_name, module in [*sys.modules.items()]:
            if module_name not in _PROCESS_MODULES and _has(module, name, wanted):
                return cls(module_name, name)
        return None


def _has(module: Any, name: str, wanted: type) -> bool:
    return type(module) is ModuleType and vars(module).get(name) is wanted


def _imported(module: str, name: str) -> type:
    return vars(import_module(module))[name]


def _class_name(cls: type) -> str:
    found = vars(type)["__module__"].__get__(cls)
    module = f"{found}." if type(found) is str and found != "builtins" else ""
    return f"{module}{vars(type)['__qualname__'].__get__(cls)}"


def _reduction(exc: BaseException) -> tuple[Any, Any] | None:
    """((function, arguments), (state, setter)) of the class's own pickling.

    None for the first: the interpreter makes the exception. None for the second: there is no state.
    None for both together: the class has no pickling of its own, or one that is not supported.
    """
    reduce = _own_method(exc, "__reduce_ex__")
    arguments: tuple[Any, ...] = (PICKLE_PROTOCOL,)
    if reduce is None:
        reduce, arguments = _own_method(exc, "__reduce__"), ()
    registered = copyreg.dispatch_table.get(original_class(exc))
    if registered is not None:
        reduce, arguments = registered, (exc,)
    if reduce is not None:
        reduced: tuple[Any, ...] = (*reduce(*arguments), *[None] * 4)
        made, arguments, state, items, pairs, setter = reduced[:6]
        if items is not None or pairs is not None:
            return None
        return (made, arguments), None if state is None else (state, setter)
    get_state, set_state = _own_method(exc, "__getstate__"), _own_method(exc, "__setstate__")
    if get_state is None and set_state is None:
        return None
    state = dict(get(exc, "__dict__")) if get_state is None else get_state()
    return None, None if state is None else (state, None)


def _left_out(
    exc: BaseException, attributes: dict[tuple[str, bool], Any], copied: dict[tuple[str, bool], Any]
) -> list[int]:
    """The numbers of the attributes that a copy by the class's own pickling (`copied`) lacks.

    What `__getstate__` leaves out is meant to be left out.
    """
    chooses = _own_method(exc, "__getstate__") is not None
    changes = chooses or _own_method(exc, "__setstate__") is not None
    left_out: list[int] = []
    for number, (key, value) in enumerate(attributes.items()):
        if key not in copied:
            is_lost = not chooses or key[0] in ("__notes__", "error", "job_id")
        else:
            is_lost = not changes and not _is_like(value, copied[key])
        if is_lost:
            left_out.append(number)
    return left_out


def _is_like(one: Any, other: Any) -> bool:
    """Whether both are the same, as far as that is known without calling their own methods."""
    if one is other:
        return True
    kind = _type(one)
    if kind is not _type(other):
        return False
    if id(kind) in _PLAIN_TYPES:
        return one == other or one != one
    if kind is tuple or kind is list:
        return len(one) == len(other) and all(map(_is_like, one, other))
    if kind is dict:
        return len(one) == len(other) and all(
            map(_is_like, [*one, *one.values()], [*other, *other.values()])
        )
    return True


# -- making
# -----------------------------------------------------------------------------------------


def _bare(
    cls: type[BaseException],
    args: tuple[Any, ...],
    group: tuple[str, list[BaseException]] | None,
) -> BaseException:
    """Makes an instance of `cls` without attributes, and without calling users' constructors."""
    for c in mro(cls):
        # `__new__` of the nearest type written in C, which initializes its own part of the object.
        new = class_attributes(c).get("__new__")
        if type(new) is BuiltinFunctionType:
            if group is not None:
                return new(cls, *group)
            try:
                return new(cls)
            except TypeError:
                return new(cls, *args)
    raise TypeError(f"{cls} is no class of exceptions")


def _has_parts(exc: BaseException, args: tuple[Any, ...]) -> bool:
    """Whether an exception like this can be made without its class's own pickling."""
    if _GROUP is not None and is_exception(exc, _GROUP):
        return True
    try:
        _bare(type(exc), args, None)
    except Exception:  # pydantic's ValidationError has no constructor at all
        return False
    return True


def _set_args(exc: BaseException, args: tuple[Any, ...]) -> None:
    for c in mro(type(exc)):
        initialize = class_attributes(c).get("__init__")
        if type(initialize) is WrapperDescriptorType:
            try:
                initialize(exc, *args)
            except Exception:  # it wants other arguments; attributes are set later
                pass
            break
    put(exc, "args", args)


def _set_state(exc: BaseException, state: Any, setter: Callable[..., Any] | None) -> None:
    """As pickle does it, but without `__setattr__`, which raises in some classes."""
    own = _own_method(exc, "__setstate__")
    if setter is not None:
        setter(exc, state)
    elif own is not None:
        own(state)
    else:
        slots: dict[str, Any] | None = None
        if _type(state) is tuple:
            state, slots = state
        get(exc, "__dict__").update(state or {})
        for name, value in (slots or {}).items():
            _set_attribute(exc, name, True, value)


def unpack(
    packed: bytes | list[Row],
    class_for: Callable[[type[BaseException], bool, bool], type[BaseException]],
) -> BaseException:
    """The exception that was packed, with all exceptions that it refers to.

    `class_for`: returns the class to use for an exception. Gets its class, whether it is the first
    one, and whether it was combined with RemoteException.
    """
    rows = pickle.loads(packed) if isinstance(packed, bytes) else packed
    return _Unpacking(rows, class_for).exception()


class _Unpacking:
    """Makes the exceptions of some rows.

    All are made before the arguments and attributes of any are set, since these may refer to any
    other. Groups, and exceptions with a pickling of their own, need others when they are made. Rows
    of those come later, so the last row is made first.
    """

    def __init__(
        self,
        rows: list[Row],
        class_for: Callable[[type[BaseException], bool, bool], type[BaseException]],
    ):
        self._rows = rows
        self._class_for = class_for
        self._made: dict[int, BaseException] = {}
        self._being_made: set[int] = set()
        # Numbers of exceptions that were made by their class's own pickling.
        self._by_own: set[int] = set()

    def exception(self) -> BaseException:
        numbers = range(len(self._rows))
        for number in reversed(numbers):
            self._make(number)
        for number in numbers:
            exc, row = self._made[number], self._rows[number]
            if type(exc) is not UnknownException:
                self._fill(number, exc, row)
            for name, of in (("__cause__", row["cause"]), ("__context__", row["context"])):
                put(exc, name, None if of is None else self._made[of])
            put(exc, "__suppress_context__", row["suppresses_context"])
        return self._made[0]

    def _make(self, number: int) -> BaseException:
        if number in self._made:
            return self._made[number]
        if number in self._being_made:
            raise ValueError("an exception is made with itself")
        self._being_made.add(number)
        row = self._rows[number]
        try:
            exc = self._made_of(number, row)
        except BaseException:  # its class may do anything
            exc = UnknownException(row["text"])
        self._being_made.discard(number)
        self._made[number] = exc
        return exc

    def _made_of(self, number: int, row: Row) -> BaseException:
        cls, is_exact = self._class(row["classes"])
        if cls is UnknownException:
            return cls(row["text"])
        wanted = self._class_for(cls, number == 0, row["is_remote"])
        if is_exact and row.get("made") is not None:
            exc = self._made_by_own(row["made"], cls, wanted)
            if exc is not None:
                self._by_own.add(number)
                return exc
        elif is_exact and "made" in row:
            self._by_own.add(number)
        group = row["group"]
        if group is not None:
            members = [self._member(member) for member in group[1]]
            return _bare(wanted, (), (group[0], members))
        try:
            return _bare(wanted, (), None)
        except TypeError:
            return _bare(wanted, self._args(row), None)

    def _member(self, number: int | None) -> BaseException:
        return UnknownException("one of too many") if number is None else self._make(number)

    @staticmethod
    def _class(pickles: list[bytes]) -> tuple[type[BaseException], bool]:
        """The first class that can be imported here, and whether it is the exception's own."""
        for number, pickled in enumerate(pickles):
            try:
                cls = pickling.loads(pickled)
                if issubclass(type(cls), type) and issubclass(cls, BaseException):
                    return cls, number == 0
            except BaseException:  # its module may do anything when it is imported
                continue
        return UnknownException, False

    def _made_by_own(
        self, made: bytes, cls: type[BaseException], wanted: type[BaseException]
    ) -> BaseException | None:
        """Makes an exception by its class's own pickling, as `wanted`, or else as `cls`."""

        def of_wanted(*args: Any) -> BaseException:
            exc = _bare(wanted, args, None)
            _set_args(exc, args)
            return exc

        # As `cls` in the end: its state is worth more than being a RemoteException, too.
        for stand_in, target in ((cls, wanted), (of_wanted, wanted), (cls, cls)):

            def resolve(reference: Any, stand_in: Any = stand_in) -> Any:
                return stand_in if reference == _ITS_CLASS else self._make(reference)

            try:
                function, arguments = pickling.loads(made, resolve)
                exc = function(*arguments)
                if type(exc) is not target:
                    vars(object)["__class__"].__set__(exc, target)
                return exc
            except BaseException:
                continue
        return None

    def _fill(self, number: int, exc: BaseException, row: Row) -> None:
        """Sets the arguments and attributes."""
        names = range(len(row["names"]))
        if number in self._by_own:
            try:
                if row["made"] is None:
                    _set_args(exc, self._args(row))
                if row["state"] is not None:

                    def resolve(reference: Any) -> Any:
                        return type(exc) if reference == _ITS_CLASS else self._make(reference)

                    _set_state(exc, *pickling.loads(row["state"], resolve))
                names = row["left_out"]
            except BaseException:  # it worked where it was packed, but not here
                names = range(len(row["names"]))
        else:
            _set_args(exc, self._args(row))
        if names:
            values = self._values(row)[row["argument_count"] :]
            for index in names:
                name, is_member = row["names"][index]
                _set_attribute(exc, name, is_member, values[index])

    def _args(self, row: Row) -> tuple[Any, ...]:
        return tuple(self._values(row)[: row["argument_count"]])

    def _values(self, row: Row) -> list[Any]:
        """The arguments, then the values of the attributes."""
        if "values" not in row:
            row["values"] = self._loaded(row)
        return row["values"]

    def _loaded(self, row: Row) -> list[Any]:
        try:
            if row["together"]:
                return pickling.loads(row["together"], self._make)
        except BaseException:  # values may do anything when they are unpickled
            pass
        if not row["one_by_one"]:
            return ["<it can't be unpickled here>"] * (row["argument_count"] + len(row["names"]))
        values: list[Any] = []
        for packed in row["one_by_one"]:
            values.append(values[packed] if isinstance(packed, int) else self._value(packed))
        return values

    def _value(self, packed: bytes | str) -> Any:
        if isinstance(packed, str):
            return packed
        try:
            return pickling.loads(packed, self._make)
        except BaseException as error:
            return f"<it can't be unpickled here: {exception_text(error)}>"
