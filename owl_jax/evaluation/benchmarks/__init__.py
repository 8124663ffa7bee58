"""The benchmarks by name: one file each."""

from owl_jax.evaluation.benchmark import Benchmark
from owl_jax.evaluation.benchmarks.pope import Pope

BENCHMARKS: dict[str, Benchmark] = {benchmark.name: benchmark for benchmark in (Pope(),)}
