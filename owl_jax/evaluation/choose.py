"""Finds a benchmark by its name, or in a user's Python file."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from owl_jax.errors import UserError
from owl_jax.evaluation.benchmark import Benchmark
from owl_jax.evaluation.benchmarks import BENCHMARKS
from owl_jax.python_file import explained, objects_in_file

_METHODS = (
    *("read", "question", "judge", "scores", "headline_value", "variants"),
    "constant_answers",
)


def choose_benchmark(name: str) -> Benchmark:
    """The benchmark of that name, or the one object of class Benchmark in a file NAME.py.

    Raises UserError.
    """
    if name in BENCHMARKS:
        return BENCHMARKS[name]
    if not name.endswith(".py"):
        raise UserError(
            f"--benchmark={name}: expected a Python file or one of {', '.join(sorted(BENCHMARKS))}"
        )
    found = objects_in_file(name, Benchmark, "benchmark file")
    if len(found) != 1:
        raise UserError(
            f"benchmark file {name} has {len(found)} objects of class Benchmark; expected one, as "
            "in MINE = Mine()"
        )
    benchmark = found[0]
    missing = [name for name in ("name", "kind", "headline") if not hasattr(benchmark, name)]
    if missing:
        raise UserError(f"benchmark file {name}: the benchmark lacks {' and '.join(missing)}")
    for method in _METHODS:
        setattr(benchmark, method, _explaining(getattr(benchmark, method), name))
    return benchmark


def _explaining(method: Callable[..., Any], path: str) -> Callable[..., Any]:
    """A method of a user's benchmark whose errors name the file and its line."""

    def run(*arguments: Any) -> Any:
        with explained("benchmark file", path):
            return method(*arguments)

    return run
