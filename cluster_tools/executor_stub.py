"""What an executor becomes where it is pickled: a stand-in that says so when it is used.

    client                                          job, or worker process
    call with `executor.map` in it -- pickle -->    `ExecutorStub.map`: RuntimeError, once called

Libraries pickle objects that hold an executor or its `map`, and often use neither in the job.
Knows no executor.
"""

from __future__ import annotations

import concurrent.futures
from collections.abc import Callable
from typing import Any, NoReturn

from typing_extensions import Self


class StaysHere:
    """A base class for executors: pickles arrive as a stub, and copies are the executor itself."""

    def __reduce__(self) -> tuple[Any, ...]:
        return ExecutorStub, (type(self).__name__,)

    # Like a lock or a file it is one thing, to which any number of objects may refer.
    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self


class ExecutorStub(concurrent.futures.Executor):
    """Stands for an executor in another process. Whatever it is asked to do raises a RuntimeError.

    `shutdown` does nothing: there is nothing to end.
    """

    def __init__(self, class_name: str) -> None:
        self._class_name = class_name

    def __reduce__(self) -> tuple[Any, ...]:
        return ExecutorStub, (self._class_name,)

    def __repr__(self) -> str:
        return f"<stub of a {self._class_name} of another process>"

    def submit(self, *_: Any, **__: Any) -> NoReturn:
        self._refuse("submit")

    def map(self, *_: Any, **__: Any) -> NoReturn:
        self._refuse("map")

    def __enter__(self) -> NoReturn:
        self._refuse("with")

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Does nothing."""

    @property
    def max_workers(self) -> int:
        self._refuse("max_workers")

    @property
    def _max_workers(self) -> int:
        self._refuse("_max_workers")

    @property
    def size(self) -> int:
        self._refuse("size")

    def __getattr__(self, name: str) -> Callable[..., NoReturn]:
        # Any other method of its class: a pickle of one loads, since that is no use yet.
        if name.startswith("__"):  # asked for by pickle, copy and inspect
            raise AttributeError(name)
        return _RefusedMethod(self, name)

    def _refuse(self, name: str) -> NoReturn:
        raise RuntimeError(
            f"{name} of a {self._class_name} was used in a process to which the executor had been "
            "pickled. Executors do not travel: what arrives is a stub. Send the function instead of "
            "the executor's method, or make an executor there with cluster_tools.get_executor"
        )


class _RefusedMethod:
    """A method of a stub."""

    def __init__(self, stub: ExecutorStub, name: str) -> None:
        self._stub = stub
        self._name = name

    def __call__(self, *_: Any, **__: Any) -> NoReturn:
        self._stub._refuse(self._name)  # pyright: ignore[reportPrivateUsage]
