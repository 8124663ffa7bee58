"""Finds a benchmark by its name, or in a user's Python file."""

from __future__ import annotations

from owl_jax.errors import UserError
from owl_jax.evaluation.benchmark import Benchmark
from owl_jax.evaluation.benchmarks import BENCHMARKS
from owl_jax.python_file import objects_in_file


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
    return found[0]
