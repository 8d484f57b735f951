"""Promises on keywords: what each does, on every strategy, and that none is ignored without being
known.

The keywords are those of the standard library's executors on this Python, and those of version
4.3.3.
"""

from __future__ import annotations

import concurrent.futures
import copy
import inspect
import logging
import multiprocessing
import os
import pickle
import sys
import time
import warnings
from collections.abc import Callable
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from pathlib import Path
from typing import Any

import calls
import pytest
from strategies import NewExecutor, Strategy

from cluster_tools import FileOutputStore, RemoteException
from cluster_tools._keywords import KEYWORDS
from support import kube
from support.waiting import LIMIT_S, wait_until

_STANDARD_CLASSES = [
    getattr(concurrent.futures, name)
    for name in ("ThreadPoolExecutor", "ProcessPoolExecutor", "InterpreterPoolExecutor")
    if hasattr(concurrent.futures, name)
]
# Those that no strategy has anything for: there is a warning.
_UNKNOWN = {"thread_name_prefix", "client"}
_STANDARD = {
    name
    for cls in _STANDARD_CLASSES
    for name, parameter in inspect.signature(cls.__init__).parameters.items()
    if name != "self" and parameter.kind is not inspect.Parameter.VAR_KEYWORD
}
_OF_VERSION_4 = {
    *("additional_setup_lines", "batch_size", "cfut_dir", "client", "debug", "executor"),
    *("initargs", "initializer", "job_name", "job_resources", "keep_logs", "logging_config"),
    *("logging_setup_fn", "max_workers", "mp_context", "output_store", "start_method"),
    "target_job_count",
}
# The queue has no names, and nothing is asked for there.
_ONLY_ON_A_CLUSTER = {"job_name", "job_resources"}

_settings: list[Any] = []


class NoLicence(Exception):
    pass


def _remember(setting: Any) -> None:
    _settings.append(setting)


def _remembered(_: object = None) -> Any:
    return _settings[-1] if _settings else None


def _refuse(port: int) -> None:
    raise NoLicence(port)


def _variable(name: str) -> str | None:
    return os.environ.get(name)


def _process_class(_: object = None) -> str:
    return type(multiprocessing.current_process()).__name__


def _pid(_: object) -> int:
    return os.getpid()


def _level(_: object) -> int:
    return logging.getLogger().level


def _set_level(log_file: str) -> None:
    logging.getLogger().setLevel(36)


def _width_while_it_runs(directory: Path) -> int:
    """How many calls run while this one does, at the most that it sees."""
    own = directory / f"{os.getpid()}.{time.monotonic_ns()}"
    own.touch()
    seen, until = 0, time.monotonic() + 0.2
    while time.monotonic() < until:
        seen = max(seen, len(list(directory.iterdir())))
        time.sleep(0.01)
    own.unlink()
    return seen


def _use_held_executor(holder: Any) -> Any:
    return holder["map"](calls.square, [2])


def _has_effect_on_width(new: NewExecutor, directory: Path) -> None:
    (directory / "running").mkdir()
    executor = new(max_workers=1)
    futures = executor.map_to_futures(_width_while_it_runs, [directory / "running"] * 3)
    assert [future.result(LIMIT_S) for future in futures] == [1] * 3


def _has_effect_on_processes(new: NewExecutor, directory: Path) -> None:
    executor = new(initializer=_remember, initargs=("a setting",))
    assert list(executor.map(_remembered, range(3))) == ["a setting"] * 3


def _is_started_by(new: NewExecutor, **keywords: Any) -> None:
    expected = type(multiprocessing.get_context("forkserver").Process()).__name__
    assert next(iter(new(**keywords).map(_process_class, [0]))) == expected


def _ends_processes(new: NewExecutor, directory: Path) -> None:
    if sys.version_info < (3, 11):
        with pytest.raises(NotImplementedError, match=r"3\.11"):
            new(max_tasks_per_child=1)
        return
    executor = new(max_workers=1, max_tasks_per_child=1)
    futures = executor.map_to_futures(_pid, range(4))
    assert len({future.result(LIMIT_S) for future in futures}) > 1


class NotingStore(FileOutputStore):
    def write(self, key: str, data: Any, *, success: bool) -> None:
        super().write(key, data, success=success)
        Path(f"{key}.noted").touch()


def _keeps_outputs_there(new: NewExecutor, directory: Path) -> None:
    executor = new(output_store=NotingStore())
    options = {"output_key": str(directory / "kept")}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of batching: this call is in no batch
        future = executor.submit(calls.square, 3, __cfut_options=options)
    assert future.result(LIMIT_S) == 9
    assert (directory / "kept.noted").exists()


def _logs_jobs(new: NewExecutor, directory: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="cluster_tools"):
        assert new(debug=True).submit(calls.square, 3).result(LIMIT_S) == 9
    assert any(record.levelno == logging.INFO for record in caplog.records)


def _leaves_no_logs(new: NewExecutor, directory: Path) -> None:
    executor = new(keep_logs=False, cfut_dir=str(directory / "own"))
    assert executor.submit(calls.square, 3).result(LIMIT_S) == 9
    executor.shutdown()
    assert list((directory / "own").iterdir()) == []


def _puts_logs_there(new: NewExecutor, directory: Path) -> None:
    executor = new(cfut_dir=str(directory / "own"))
    assert executor.submit(calls.square, 3).result(LIMIT_S) == 9
    executor.shutdown()
    wait_until(lambda: len(list((directory / "own").glob("*.stdout"))) > 0, "the log")


def _sets_variable(new: NewExecutor, directory: Path) -> None:
    executor = new(additional_setup_lines=["export A_SETTING=there"])
    assert next(iter(executor.map(_variable, ["A_SETTING"]))) == "there"


def _sets_level(new: NewExecutor, level: int, **keywords: Any) -> None:
    assert next(iter(new(**keywords).map(_level, [0]))) == level


def _names_job(new: NewExecutor, strategy: Strategy) -> None:
    variable = {"gridengine": "JOB_NAME"}.get(strategy.environment, "SLURM_JOB_NAME")
    future = new(job_name="a-name-of-mine").submit(_variable, variable)
    named = future.cluster_jobid if strategy.environment == "kubernetes" else future.result(LIMIT_S)
    assert str(named).startswith("a-name-of-mine")


def _asks_for_resources(new: NewExecutor, strategy: Strategy) -> None:
    if strategy.environment == "kubernetes":
        with pytest.raises(ValueError, match="image"):
            new(job_resources={**kube.RESOURCES, "image": None})
        return
    if strategy.environment == "gridengine":
        future = new(job_resources={"pe": "smp 3"}).submit(_variable, "NSLOTS")
        assert future.result(LIMIT_S) == "3"
        return
    future = new(job_resources={"mem": "150M"}).submit(_variable, "SLURM_MEM_PER_NODE")
    assert future.result(LIMIT_S) == "150"


def _effect(
    word: str, new: NewExecutor, strategy: Strategy, directory: Path, caplog: Any
) -> Callable[[], object]:
    """What is asserted of the keyword where the strategy takes it."""
    effects: dict[str, Callable[[], object]] = {
        "additional_setup_lines": lambda: _sets_variable(new, directory),
        "cfut_dir": lambda: _puts_logs_there(new, directory),
        "debug": lambda: _logs_jobs(new, directory, caplog),
        "initargs": lambda: _has_effect_on_processes(new, directory),
        "initializer": lambda: _has_effect_on_processes(new, directory),
        "job_name": lambda: _names_job(new, strategy),
        "job_resources": lambda: _asks_for_resources(new, strategy),
        "keep_logs": lambda: _leaves_no_logs(new, directory),
        "logging_config": lambda: _sets_level(new, 35, logging_config={"level": 35}),
        "logging_setup_fn": lambda: _sets_level(new, 36, logging_setup_fn=_set_level),
        "max_tasks_per_child": lambda: _ends_processes(new, directory),
        "max_workers": lambda: _has_effect_on_width(new, directory),
        "mp_context": lambda: _is_started_by(
            new, mp_context=multiprocessing.get_context("forkserver")
        ),
        "output_store": lambda: _keeps_outputs_there(new, directory),
        "start_method": lambda: _is_started_by(new, start_method="forkserver"),
    }
    return effects[word]


_IGNORED_VALUES: dict[str, Any] = {
    "additional_setup_lines": ["false"],
    "batch_size": 2,
    "executor": {"name": "sequential"},
    "max_tasks_per_child": 1,
    "target_job_count": 2,
}


@pytest.mark.parametrize("word", sorted((_STANDARD | _OF_VERSION_4) - _UNKNOWN))
def test_a_keyword_takes_effect_or_is_known_to_have_none(
    new_executor: NewExecutor,
    strategy: Strategy,
    directory: Path,
    caplog: pytest.LogCaptureFixture,
    word: str,
) -> None:
    batching = strategy.environment == "batching"
    name = strategy.keywords["executor"]["name"] if batching else strategy.environment
    if batching and word in ("batch_size", "executor", "target_job_count"):
        return  # the suite's own, without which there is no such executor; see test_batching
    if word in _ONLY_ON_A_CLUSTER and name == "local":
        taken = False
    else:
        taken = name in KEYWORDS[word].taken_by
    if taken:
        _effect(word, _inner_new(new_executor, strategy), strategy, directory, caplog)()
        return
    assert name == "local" or KEYWORDS[word].elsewhere  # why it changes nothing here
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        executor = new_executor(**{word: _IGNORED_VALUES.get(word)})
        assert list(executor.map(calls.square, [2])) == [4]


def _inner_new(new: NewExecutor, strategy: Strategy) -> NewExecutor:
    """For `batching`: with a keyword beside `executor`, of which that has none of its own."""
    if strategy.environment != "batching":
        return new
    name = strategy.keywords["executor"]["name"]
    return partial(new, executor={"name": name})


@pytest.mark.parametrize("word", sorted(_UNKNOWN))
def test_a_keyword_that_no_strategy_takes_is_warned_of(
    new_executor: NewExecutor, word: str
) -> None:
    with pytest.warns(UserWarning, match=f"no strategy takes the keyword {word}") as caught:
        executor = new_executor(**{word: None})
    assert caught[0].filename.endswith("conftest.py")  # the caller's line
    assert list(executor.map(calls.square, [2])) == [4]


@pytest.mark.parametrize("count", [0, -1, 1.5, "2"])
def test_max_workers_is_a_count(new_executor: NewExecutor, strategy: Strategy, count: Any) -> None:
    new = _inner_new(new_executor, strategy)
    with pytest.raises((ValueError, TypeError)):
        new(max_workers=count)


def test_clients_read_how_many_calls_can_run_at_a_time(executor: Any) -> None:
    widths = [executor.max_workers, executor._max_workers, executor.size]
    assert len(set(widths)) == 1
    assert type(widths[0]) is int
    assert widths[0] >= 1


def test_it_is_an_executor_of_the_standard_library(executor: Any) -> None:
    assert isinstance(executor, concurrent.futures.Executor)


def test_an_initializer_that_fails_is_the_failure_of_the_calls(
    new_executor: NewExecutor, strategy: Strategy
) -> None:
    executor = _inner_new(new_executor, strategy)(initializer=_refuse, initargs=(27000,))
    future = executor.map_to_futures(calls.square, [2])[0]
    error: Any = future.exception(LIMIT_S)
    name = (
        strategy.keywords["executor"]["name"]
        if strategy.environment == "batching"
        else strategy.environment
    )
    if name.startswith("multiprocessing"):
        assert isinstance(error, BrokenProcessPool)
        error = error.__cause__
    assert isinstance(error, NoLicence)
    assert error.args == (27000,)
    assert isinstance(error, RemoteException) is strategy.is_cluster


@pytest.mark.parametrize("initializer", [3, "f"])
def test_an_initializer_is_a_callable(
    new_executor: NewExecutor, strategy: Strategy, initializer: Any
) -> None:
    with pytest.raises(TypeError, match="initializer must be a callable"):
        _inner_new(new_executor, strategy)(initializer=initializer)


def test_a_copy_of_an_executor_is_the_executor(executor: Any) -> None:
    assert copy.copy(executor) is executor
    assert copy.deepcopy({"held": executor})["held"] is executor


def test_a_pickled_executor_is_a_stub_that_says_so(executor: Any) -> None:
    stub = pickle.loads(pickle.dumps(executor))
    assert isinstance(stub, concurrent.futures.Executor)
    assert type(executor).__name__ in repr(stub)
    uses: list[Callable[[], object]] = [
        lambda: stub.submit(pow, 2, 2),
        lambda: stub.map(abs, []),
        lambda: getattr(stub, "size"),  # noqa: B009
    ]
    for use in uses:
        with pytest.raises(RuntimeError, match="Executors do not travel"):
            use()
    stub.shutdown()


@pytest.mark.holds_for("pickles_without_batches")
def test_what_holds_an_executor_reaches_a_call(executor: Any) -> None:
    holder = {"map": executor.map, "unused": executor}
    assert executor.submit(len, holder).result(LIMIT_S) == 2
    error = executor.submit(_use_held_executor, holder).exception(LIMIT_S)
    assert isinstance(error, RuntimeError)
    assert "Executors do not travel" in str(error)
