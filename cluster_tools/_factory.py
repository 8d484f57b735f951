"""`get_executor`: makes the executor of a strategy.

Knows the name and the class of each strategy of ours, and imports the class only when it is
used. Other packages' strategies are entry points of the group `cluster_tools.schedulers`. Ours
are no entry points, so that they are found where the package is not installed but lies on
PYTHONPATH, as it may on nodes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, cast, overload

from cluster_tools._keywords import check_keywords, handed_on, taken
from cluster_tools._lazy import import_submodule

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

    from cluster_tools.executor_protocol import Executor
    from cluster_tools.executors.batching import BatchingExecutor
    from cluster_tools.executors.gridengine import GridEngineExecutor
    from cluster_tools.executors.kubernetes import KubernetesExecutor
    from cluster_tools.executors.local import LocalExecutor
    from cluster_tools.executors.multiprocessing_ import MultiprocessingExecutor
    from cluster_tools.executors.multiprocessing_pickle import MultiprocessingPickleExecutor
    from cluster_tools.executors.sequential import SequentialExecutor
    from cluster_tools.executors.sequential_pickle import SequentialPickleExecutor
    from cluster_tools.executors.slurm import SlurmExecutor


class _Strategy(NamedTuple):
    """Where the class of a strategy is: a module of this package, and the name in it."""

    module: str
    class_name: str


_STRATEGIES = {
    "sequential": _Strategy("executors.sequential", "SequentialExecutor"),
    "sequential_with_pickling": _Strategy(
        "executors.sequential_pickle", "SequentialPickleExecutor"
    ),
    "multiprocessing": _Strategy("executors.multiprocessing_", "MultiprocessingExecutor"),
    "multiprocessing_with_pickling": _Strategy(
        "executors.multiprocessing_pickle", "MultiprocessingPickleExecutor"
    ),
    "batching": _Strategy("executors.batching", "BatchingExecutor"),
    "local": _Strategy("executors.local", "LocalExecutor"),
    "slurm": _Strategy("executors.slurm", "SlurmExecutor"),
    "gridengine": _Strategy("executors.gridengine", "GridEngineExecutor"),
    "kubernetes": _Strategy("executors.kubernetes", "KubernetesExecutor"),
}
_ALIASES = {
    "debug_sequential": "sequential",
    "test_pickling": "multiprocessing_with_pickling",
}
# The group of entry points of other packages. The name of each is a strategy's; it refers to a
# subclass of ClusterExecutor.
_ENTRY_POINTS = "cluster_tools.schedulers"
# Strategies of 4.3.3 that this version does not have.
_LEFT_OUT = frozenset({"dask", "pbs"})


@overload
def get_executor(
    environment: Literal["sequential", "debug_sequential"], **kwargs: Any
) -> SequentialExecutor: ...
@overload
def get_executor(
    environment: Literal["sequential_with_pickling"], **kwargs: Any
) -> SequentialPickleExecutor: ...
@overload
def get_executor(
    environment: Literal["multiprocessing"], **kwargs: Any
) -> MultiprocessingExecutor: ...
@overload
def get_executor(
    environment: Literal["multiprocessing_with_pickling", "test_pickling"], **kwargs: Any
) -> MultiprocessingPickleExecutor: ...
@overload
def get_executor(environment: Literal["batching"], **kwargs: Any) -> BatchingExecutor: ...
@overload
def get_executor(environment: Literal["local"], **kwargs: Any) -> LocalExecutor: ...
@overload
def get_executor(environment: Literal["slurm"], **kwargs: Any) -> SlurmExecutor: ...
@overload
def get_executor(environment: Literal["gridengine"], **kwargs: Any) -> GridEngineExecutor: ...
@overload
def get_executor(environment: Literal["kubernetes"], **kwargs: Any) -> KubernetesExecutor: ...
@overload
def get_executor(environment: str, **kwargs: Any) -> Executor: ...
def get_executor(environment: str, **kwargs: Any) -> Executor:
    """Makes the executor of a strategy.

    Arguments:
        environment: The strategy: `sequential`, `sequential_with_pickling`, `multiprocessing`,
            `multiprocessing_with_pickling`, `batching`, `local`, `slurm`, `gridengine` or
            `kubernetes`; or one of another package, by an entry point of the group
            `cluster_tools.schedulers` that refers to a subclass of `ClusterExecutor`.
        kwargs: Go to the executor's class. Keywords that only other strategies take are left out,
            so that one set of keywords serves all; those that none takes cause a `UserWarning`.
            `batching` passes keywords on to its `executor`, unless that has its own.

    Raises:
        ValueError: There is no such strategy, or a keyword is one of `job_resources`.
        What importing the strategy raises, such as ImportError.
    """
    name = _ALIASES.get(environment, environment)
    executor_class = _executor_class(name)
    if executor_class is None:
        if name in _LEFT_OUT:
            raise ValueError(
                f"the strategy {name!r} was left out of cluster_tools 5; {_known_strategies()}"
            )
        raise ValueError(f"unknown strategy {environment!r}; {_known_strategies()}")
    check_keywords(kwargs)
    arguments = taken(name, kwargs)
    if name != "batching":
        return executor_class(**arguments)
    # The class has no defaults for these two, one of which must be None.
    arguments = {"batch_size": None, "target_job_count": None, **arguments}
    inner = arguments["executor"] = _inner_executor(arguments.get("executor"), kwargs)
    try:
        return executor_class(**arguments)
    except BaseException:
        inner.shutdown(cancel_futures=True)
        raise


def _executor_class(name: str) -> Any:
    """The class of a strategy; None where there is no such strategy."""
    if name in _STRATEGIES:
        module, class_name = _STRATEGIES[name]
        return getattr(import_submodule("cluster_tools", module), class_name)
    for entry_point in _entry_points():
        if entry_point.name == name:
            return entry_point.load()
    return None


def _entry_points() -> Iterable[EntryPoint]:
    from importlib.metadata import entry_points

    return entry_points(group=_ENTRY_POINTS)


def _inner_executor(config: object, outer: Mapping[str, Any]) -> Executor:
    if not isinstance(config, Mapping) or "name" not in config:
        raise ValueError(
            "the strategy 'batching' takes executor={'name': <a strategy>, ...}, "
            f"and was given {config!r}"
        )
    inner = dict(cast("Mapping[str, Any]", config))
    name: str = inner.pop("name")
    return get_executor(name, **handed_on(outer, inner))


def _known_strategies() -> str:
    others = [entry_point.name for entry_point in _entry_points()]
    return f"there are {', '.join(sorted({*_STRATEGIES, *_ALIASES, *others}))}"
