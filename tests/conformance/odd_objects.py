"""Exceptions and other objects whose classes do what few do, for the tests that send them."""

from __future__ import annotations

import asyncio
import builtins
import concurrent.futures
import json
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar


class Falsy(Exception):
    """Counts as false: it has a length, and that is 0."""

    def __len__(self) -> int:
        return 0


class BoolFails(Exception):
    def __bool__(self) -> bool:
        raise RuntimeError("no bool")


class Registered(Exception):
    """Notes its subclasses."""

    subclasses: ClassVar[list[str]] = []

    def __init_subclass__(cls) -> None:
        Registered.subclasses.append(cls.__name__)


class CountingMeta(type):
    """Notes its classes."""

    classes: ClassVar[list[str]] = []

    def __init__(cls, name: str, bases: tuple[type, ...], namespace: dict[str, Any]) -> None:
        super().__init__(name, bases, namespace)
        CountingMeta.classes.append(name)


class Counted(Exception, metaclass=CountingMeta):
    pass


class KeywordOnly(Exception):
    def __init__(self, *, code: int) -> None:
        super().__init__("keyword only")
        self.code = code


@dataclass(frozen=True)
class Frozen(Exception):
    code: int


@dataclass
class Unhashable(Exception):
    code: int


class ReadOnly(Exception):
    def __init__(self, code: int) -> None:
        super().__init__("read only")
        self.__dict__["code"] = code

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError("read only")


class Slotted(Exception):
    __slots__ = ("code",)

    def __init__(self, code: int) -> None:
        super().__init__("slotted")
        self.code = code


class OwnReduce(Exception):
    """What it keeps can't be pickled; its own pickling makes it anew."""

    def __init__(self, code: int) -> None:
        super().__init__(f"own reduce {code}")
        self.code = code
        self.lock = threading.Lock()

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.code,)


class WrongReduce(Exception):
    """Its own pickling calls the constructor with other arguments."""

    def __init__(self, code: int, why: str = "why") -> None:
        super().__init__(f"{code}: {why}")
        self.code = code

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), self.args


class ForgetfulReduce(Exception):
    """Its own pickling forgets an attribute."""

    def __init__(self, words: str, code: int = 0) -> None:
        super().__init__(words)
        self.code = code

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.args[0],)


class OwnState(Exception):
    def __init__(self, code: int) -> None:
        super().__init__("own state")
        self.code = code
        self.lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        return {"code": self.code}

    def __setstate__(self, state: Any) -> None:
        self.__dict__.update(state)
        self.lock = threading.Lock()


class ReduceLeaves(Exception):
    def __init__(self, code: int) -> None:
        super().__init__("reduce leaves")
        self.code = code

    def __reduce__(self) -> tuple[Any, ...]:
        sys.exit(7)


class OfOsError(OSError):
    """With state in C, and another constructor."""

    def __init__(self, code: int, *, path: str) -> None:
        super().__init__(code, "words", path)
        self.code = code


class Liar(Exception):
    """Nothing of it can be asked but by the interpreter."""

    def __getattribute__(self, name: str) -> Any:
        raise RuntimeError(f"do not ask for {name}")

    def __setattr__(self, name: str, value: object) -> None:
        raise RuntimeError(f"do not set {name}")

    def __eq__(self, other: object) -> bool:
        raise RuntimeError("do not compare")

    __hash__ = None  # type: ignore[assignment]

    def __bool__(self) -> bool:
        raise RuntimeError("do not decide")

    def __str__(self) -> str:
        raise RuntimeError("do not print")

    __repr__ = __str__


class HasAll(Exception):
    """It has each attribute that one asks for."""

    def __getattr__(self, name: str) -> Any:
        def one(*args: object, **kwargs: object) -> int:
            return 1

        return one


class SaysAnotherModule(Exception):
    """To be printed shorter; pytest's do so."""

    __module__ = "builtins"


class WithAttributes(Exception):
    """One can't be pickled, one not unpickled, two are the same, one is an exception."""

    def __init__(self, code: int) -> None:
        super().__init__("with attributes", threading.Lock())
        self.code = code
        self.lock = threading.Lock()
        self.one_way = _OneWay()
        self.first = self.second = [code]
        self.inner = KeywordOnly(code=code)
        self.itself = self


class _OneWay:
    def __reduce__(self) -> tuple[Any, ...]:
        return _refuse, ()


def _refuse() -> None:
    raise ValueError("this does not load")


class _Leaves:
    """Ends the program, wherever it is made of a pickle."""

    def __reduce__(self) -> tuple[Any, ...]:
        return sys.exit, (7,)


class _LeavesWhenPickled:
    def __reduce__(self) -> tuple[Any, ...]:
        sys.exit(7)


class _Interrupts:
    """Interrupts whoever pickles it."""

    def __reduce__(self) -> tuple[Any, ...]:
        raise KeyboardInterrupt

    __repr__ = __reduce__  # type: ignore[assignment]


EXCEPTIONS: dict[str, Callable[[], BaseException]] = {
    "falsy": Falsy,
    "bool fails": BoolFails,
    "registered": Registered,
    "counted": Counted,
    "keyword only": lambda: KeywordOnly(code=7),
    "frozen": lambda: Frozen(7),
    "unhashable": lambda: Unhashable(7),
    "read only": lambda: ReadOnly(7),
    "slotted": lambda: Slotted(7),
    "own reduce": lambda: OwnReduce(7),
    "wrong reduce": lambda: WrongReduce(7),
    "forgetful reduce": lambda: ForgetfulReduce("words", 7),
    "own state": lambda: OwnState(7),
    "reduce leaves": lambda: ReduceLeaves(7),
    "of OSError": lambda: OfOsError(7, path="/somewhere"),
    "has all": HasAll,
    "says another module": lambda: SaysAnotherModule("words"),
    "with attributes": lambda: WithAttributes(7),
    "KeyError": lambda: KeyError("k"),
    "StopIteration": lambda: StopIteration(3),
    "UnicodeDecodeError": lambda: UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad"),
    "SyntaxError": lambda: SyntaxError("bad", ("f.py", 3, 4, "text")),
    "ImportError": lambda: ImportError("no", name="x", path="/y"),
    "CalledProcessError": lambda: subprocess.CalledProcessError(3, ["x"], b"out"),
    "TimeoutExpired": lambda: subprocess.TimeoutExpired(["x"], 3.0),
    "JSONDecodeError": lambda: json.JSONDecodeError("bad", "{", 1),
    "TimeoutError": lambda: concurrent.futures.TimeoutError("late"),
    "CancelledError": lambda: concurrent.futures.CancelledError("gone"),
    "asyncio.CancelledError": lambda: asyncio.CancelledError("gone"),
    "SystemExit": lambda: SystemExit(3),
}


def raise_named(name: str) -> None:
    raise EXCEPTIONS[name]()


def raise_liar(_: int) -> None:
    raise Liar("liar")


def result_that_leaves(_: int) -> object:
    return _LeavesWhenPickled()


def raise_with_parts_that_end_programs(_: int) -> None:
    error: Any = ValueError("words", _Leaves(), _Interrupts())
    error.code, error.leaves, error.interrupts = 7, _Leaves(), _Interrupts()
    raise error


def raise_with_cause(_: int) -> None:
    try:
        try:
            raise OwnState(1)
        except OwnState:
            raise KeywordOnly(code=2) from None
    except KeywordOnly as error:
        raise OwnReduce(3) from error


def raise_in_context(_: int) -> None:
    try:
        raise KeywordOnly(code=2)
    except KeywordOnly:
        raise ValueError("second")  # noqa: B904


def raise_long_chain(length: int) -> None:
    last = ValueError(0)
    for number in range(1, length):
        error = ValueError(number)
        error.__context__, last = last, error
    raise last


def raise_circle(_: int) -> None:
    first, second = ValueError("first"), KeyError("second")
    first.__cause__, second.__cause__ = second, first
    raise first


def raise_group(_: int) -> None:
    noted = KeywordOnly(code=2)
    noted.__cause__ = OwnState(1)
    group: Any = vars(builtins)["ExceptionGroup"]  # from Python 3.11 on
    raise group("outer", [ValueError(1), group("inner", [noted, OwnReduce(3), _local()])])


def _local() -> Exception:
    class Local(Exception):
        pass

    return Local(threading.Lock())


class OddFunction:
    """A function whose attributes raise, or are no texts."""

    def __init__(self, name: object) -> None:
        self._name = name

    def __call__(self, number: int) -> int:
        return number * number

    @property
    def __name__(self) -> Any:
        if self._name is None:
            raise RuntimeError("no name")
        return self._name

    @property
    def func(self) -> Any:
        return self

    def __len__(self) -> int:
        return 0

    def __eq__(self, other: object) -> bool:
        raise RuntimeError("do not compare")

    __hash__ = None  # type: ignore[assignment]


class Value:
    """An argument and a result that answers nothing."""

    def __eq__(self, other: object) -> bool:
        raise RuntimeError("do not compare")

    __hash__ = None  # type: ignore[assignment]

    def __bool__(self) -> bool:
        raise RuntimeError("do not decide")

    def __len__(self) -> int:
        raise RuntimeError("do not count")

    def __repr__(self) -> str:
        raise RuntimeError("do not print")

    def __array__(self) -> Any:
        raise RuntimeError("no array")

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return self


def given_back(value: Any) -> Any:
    return value
