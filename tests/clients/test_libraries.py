"""Libraries that take an executor, unchanged: with ours they find what they find with the standard
library's.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import operator
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.timeout(240)

Run = Callable[[Any], Any]


@pytest.fixture
def equal_to_the_standard_library_s(executor: Any, expected_executor: Any) -> Callable[[Run], Any]:
    """Runs something on both executors."""

    def compare(run: Run) -> Any:
        found = run(executor)
        assert found == run(expected_executor)
        return found

    return compare


def square(number: float) -> float:
    return number * number


def add(left: float, right: float) -> float:
    return left + right


def bowl(point: Any) -> float:
    return float(sum((value - 0.3) ** 2 for value in point))


def peak(x: float) -> float:
    return x + 0.0001 / (0.0001 + (x - 0.2) ** 2)


def log_probability(point: Any) -> float:
    return -0.5 * float(sum(value * value for value in point))


def wave(x: float) -> Any:
    import numpy  # pyright: ignore[reportMissingImports]

    return numpy.array([numpy.sin(x), numpy.cos(x)])  # pyright: ignore[reportUnknownVariableType]


def refuse(number: float) -> float:
    raise ValueError(number)


class TestDask:
    def test_scheduler(self, equal_to_the_standard_library_s: Any) -> None:
        dask = pytest.importorskip("dask")

        def run(executor: Any) -> Any:
            squares = [dask.delayed(square)(number) for number in range(50)]
            return dask.delayed(sum)(squares).compute(scheduler=executor)

        assert equal_to_the_standard_library_s(run) == sum(n * n for n in range(50))

    def test_pool(self, equal_to_the_standard_library_s: Any) -> None:
        dask = pytest.importorskip("dask")

        def run(executor: Any) -> Any:
            with dask.config.set(pool=executor, scheduler="processes"):
                total = dask.delayed(add)(dask.delayed(square)(3), dask.delayed(square)(4))
                return total.compute()

        assert equal_to_the_standard_library_s(run) == 25

    def test_bags_and_arrays(self, equal_to_the_standard_library_s: Any) -> None:
        bag = pytest.importorskip("dask.bag")
        array = pytest.importorskip("dask.array")

        def run(executor: Any) -> Any:
            odd = bag.from_sequence(list(range(100)), npartitions=5).map(square).filter(_is_odd)
            ones = array.arange(1_000, chunks=100)
            return (
                odd.sum().compute(scheduler=executor),
                int((ones * 2).sum().compute(scheduler=executor)),
            )

        assert equal_to_the_standard_library_s(run)[1] == 999_000

    def test_an_exception(self, executor: Any) -> None:
        dask = pytest.importorskip("dask")
        with pytest.raises(ValueError, match="7"):
            dask.delayed(refuse)(7).compute(scheduler=executor)


def _is_odd(number: float) -> bool:
    return number % 2 == 1


def row_of(array: Any, row: int) -> tuple[float, bool]:
    return float(array[row].sum()), array.flags.writeable


def column_of(frame: Any) -> tuple[float, bool]:
    return float(frame["x"].sum()), frame["x"].to_numpy().flags.writeable


def column_of_table(table: Any) -> tuple[float, bool]:
    column = table["x"].chunk(0)
    return float(sum(column.to_pylist())), column.buffers()[1].is_mutable


class TestSharedValues:
    """`share`: what these libraries map from the file is read-only."""

    @pytest.mark.parametrize("order", ["C", "F"])
    def test_numpy(self, order: str, executor: Any) -> None:
        numpy = pytest.importorskip("numpy")
        array = numpy.asarray(numpy.arange(600_000.0).reshape(2, -1), order=order)
        shared = executor.share(array)
        found = list(executor.map(partial(row_of, shared), [0, 1]))
        assert found == [(float(row.sum()), False) for row in array]

    def test_pandas(self, executor: Any) -> None:
        pandas = pytest.importorskip("pandas")
        frame = pandas.DataFrame({"x": [1.0, 2.0] * 1000, "name": ["a", "b"] * 1000})
        assert executor.submit(column_of, executor.share(frame)).result() == (3000.0, False)

    def test_arrow(self, executor: Any) -> None:
        arrow = pytest.importorskip("pyarrow")
        table = arrow.table({"x": [1.0, 2.0] * 1000})
        assert executor.submit(column_of_table, executor.share(table)).result() == (3000.0, False)


class TestAdaptive:
    def test_a_learner(self, equal_to_the_standard_library_s: Any) -> None:
        adaptive = pytest.importorskip("adaptive")

        def run(executor: Any) -> Any:
            learner = adaptive.Learner1D(peak, bounds=(-1, 1))
            # It knows the number of workers of the standard library's pools alone.
            adaptive.BlockingRunner(learner, npoints_goal=30, executor=executor, ntasks=2)
            # Which points it asks for depends on the order in which others are done.
            return all(y == peak(x) for x, y in learner.data.items()), len(learner.data) >= 30

        assert equal_to_the_standard_library_s(run) == (True, True)


class TestScipy:
    def test_differential_evolution(self, equal_to_the_standard_library_s: Any) -> None:
        optimize = pytest.importorskip("scipy.optimize")

        def run(executor: Any) -> Any:
            found = optimize.differential_evolution(
                bowl,
                [(-1, 1)] * 3,
                workers=executor.map,
                updating="deferred",
                maxiter=5,
                popsize=4,
                **_seed(optimize.differential_evolution, 1),
            )
            return found.x.tolist(), found.nfev

        equal_to_the_standard_library_s(run)

    def test_brute(self, equal_to_the_standard_library_s: Any) -> None:
        optimize = pytest.importorskip("scipy.optimize")

        def run(executor: Any) -> Any:
            ranges = (slice(-1, 1, 0.5), slice(-1, 1, 0.5))
            return optimize.brute(bowl, ranges, finish=None, workers=executor.map).tolist()

        equal_to_the_standard_library_s(run)

    def test_quad_vec(self, equal_to_the_standard_library_s: Any) -> None:
        integrate = pytest.importorskip("scipy.integrate")

        def run(executor: Any) -> Any:
            return integrate.quad_vec(wave, 0, 1, workers=executor.map)[0].tolist()

        equal_to_the_standard_library_s(run)


def _seed(function: Any, seed: int) -> dict[str, int]:
    """The keyword has another name from SciPy 1.15 on."""
    import inspect

    return {"rng" if "rng" in inspect.signature(function).parameters else "seed": seed}


def test_emcee(equal_to_the_standard_library_s: Any) -> None:
    emcee = pytest.importorskip("emcee")
    numpy = pytest.importorskip("numpy")

    def run(executor: Any) -> Any:
        numpy.random.seed(7)
        start = numpy.random.randn(8, 2)
        sampler = emcee.EnsembleSampler(8, 2, log_probability, pool=executor)
        sampler.run_mcmc(start, 5)
        return sampler.get_chain().tolist()

    equal_to_the_standard_library_s(run)


def test_nevergrad(equal_to_the_standard_library_s: Any) -> None:
    nevergrad = pytest.importorskip("nevergrad")

    def run(executor: Any) -> Any:
        parametrization = nevergrad.p.Array(shape=(2,))
        parametrization.random_state.seed(3)
        optimizer = nevergrad.optimizers.RandomSearch(parametrization, budget=20, num_workers=4)
        return optimizer.minimize(bowl, executor=executor, batch_mode=True).value.tolist()

    equal_to_the_standard_library_s(run)


def test_optuna(equal_to_the_standard_library_s: Any) -> None:
    optuna = pytest.importorskip("optuna")
    optuna.logging.set_verbosity(optuna.logging.WARNING)

    def run(executor: Any) -> Any:
        study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=5))
        for _ in range(3):
            trials = [study.ask() for _ in range(4)]
            points = [(trial.suggest_float("x", -1, 1),) for trial in trials]
            for trial, value in zip(trials, executor.map(bowl, points)):
                study.tell(trial, value)
        return study.best_value, [trial.value for trial in study.trials]

    equal_to_the_standard_library_s(run)


def test_pipefunc(equal_to_the_standard_library_s: Any, tmp_path: Path) -> None:
    pipefunc = pytest.importorskip("pipefunc")

    def run(executor: Any) -> Any:
        squares = pipefunc.PipeFunc(square, "y", mapspec="number[i] -> y[i]")
        total = pipefunc.PipeFunc(_total, "total", renames={"values": "y"})
        pipeline = pipefunc.Pipeline([squares, total])
        results = pipeline.map({"number": list(range(10))}, executor=executor, parallel=True)
        return float(results["total"].output)

    assert equal_to_the_standard_library_s(run) == 285


def _total(values: Any) -> float:
    return float(sum(values))


def test_more_executors(equal_to_the_standard_library_s: Any) -> None:
    more_executors = pytest.importorskip("more_executors")

    def run(executor: Any) -> Any:
        policy = more_executors.ExceptionRetryPolicy(max_attempts=2, sleep=0.01)
        retrying = more_executors.RetryExecutor(executor, policy)
        doubling = more_executors.MapExecutor(retrying, partial(operator.mul, 2))
        throttled = more_executors.ThrottleExecutor(doubling, 2)
        futures = [throttled.submit(square, number) for number in range(10)]
        failing = throttled.submit(refuse, 1)
        # They are not shut down: the executor below them is the tests'.
        return [future.result(60) for future in futures], isinstance(
            failing.exception(60), ValueError
        )

    assert equal_to_the_standard_library_s(run) == ([2 * n * n for n in range(10)], True)


def test_asyncio(equal_to_the_standard_library_s: Any) -> None:
    async def gather(executor: Any) -> Any:
        loop = asyncio.get_running_loop()
        calls = [loop.run_in_executor(executor, square, number) for number in range(20)]
        failed = await asyncio.gather(
            loop.run_in_executor(executor, refuse, 5), return_exceptions=True
        )
        wrapped = await asyncio.wrap_future(executor.submit(add, 1, 2))
        return await asyncio.gather(*calls), isinstance(failed[0], ValueError), wrapped

    def run(executor: Any) -> Any:
        return asyncio.run(gather(executor))

    assert equal_to_the_standard_library_s(run) == ([n * n for n in range(20)], True, 3)


def test_anyio(equal_to_the_standard_library_s: Any) -> None:
    anyio = pytest.importorskip("anyio")

    def run(executor: Any) -> Any:
        found: dict[int, float] = {}

        async def call(number: int) -> None:
            future = executor.submit(square, number)
            found[number] = await anyio.to_thread.run_sync(future.result)

        async def main() -> None:
            async with anyio.create_task_group() as group:
                for number in range(10):
                    group.start_soon(call, number)

        anyio.run(main)
        return sorted(found.items())

    equal_to_the_standard_library_s(run)


def test_tqdm(equal_to_the_standard_library_s: Any) -> None:
    tqdm = pytest.importorskip("tqdm")

    def run(executor: Any) -> Any:
        futures = [executor.submit(square, number) for number in range(10)]
        done = tqdm.tqdm(concurrent.futures.as_completed(futures), total=10, disable=None)
        shown = tqdm.tqdm(executor.map(square, range(10)), total=10, disable=None)
        return sorted(future.result() for future in done), list(shown)

    equal_to_the_standard_library_s(run)
