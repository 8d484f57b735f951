"""What an executor becomes when it is pickled: a stub that raises an error when it is used.

    client                                          job, or worker process
    call with `executor.map` in it -- pickle -->    `ExecutorStub.map`: RuntimeError, once called

Libraries pickle objects that refer to an executor or its `map`, and often use neither in the job.
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

    # As with locks and files, a copy of an object that has an executor refers to the same executor.
    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self


class ExecutorStub(concurrent.futures.Executor):
    """Stands for an executor in another process. All its methods raise RuntimeError.

    Except `shutdown`, which does nothing: there is nothing to end.
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
        # Any other method: it can be unpickled, and raises only when it is called.
        if name.startswith("__"):  # pickle, copy and inspect ask for such
            raise AttributeError(name)
        return _RefusedMethod(self, name)

    def _refuse(self, name: str) -> NoReturn:
        """Raises: RuntimeError, for the use of this method or attribute."""
        raise RuntimeError(
            f"{name} of a {self._class_name} was used in a process to which the executor had been "
            "pickled. Executors do not travel: what arrives is a stub. Send the function instead "
            "of the executor's method, or make an executor there with cluster_tools.get_executor"
        )


class _RefusedMethod:
    """A method of a stub."""

    def __init__(self, stub: ExecutorStub, name: str) -> None:
        self._stub = stub
        self._name = name

    def __call__(self, *_: Any, **__: Any) -> NoReturn:
        self._stub._refuse(self._name)  # pyright: ignore[reportPrivateUsage]  # noqa: SLF001
