"""The benchmarks by name: one file each."""

from owl_jax.evaluation.benchmark import Benchmark
from owl_jax.evaluation.benchmarks.coco_caption import CocoCaption
from owl_jax.evaluation.benchmarks.jsonl import Jsonl
from owl_jax.evaluation.benchmarks.llava_bench import LlavaBench
from owl_jax.evaluation.benchmarks.mlvu import Mlvu, MlvuOpen
from owl_jax.evaluation.benchmarks.mmhal import MmHal
from owl_jax.evaluation.benchmarks.mvbench import MvBench
from owl_jax.evaluation.benchmarks.owleval import OwlEval
from owl_jax.evaluation.benchmarks.pope import Pope
from owl_jax.evaluation.benchmarks.tempcompass import TempCompass
from owl_jax.evaluation.benchmarks.vqav2 import Vqav2

BENCHMARKS: dict[str, Benchmark] = {
    benchmark.name: benchmark
    for benchmark in (
        CocoCaption(),
        Jsonl(),
        LlavaBench(),
        Mlvu(),
        MlvuOpen(),
        MmHal(),
        MvBench(),
        OwlEval(),
        Pope(),
        TempCompass(),
        Vqav2(),
    )
}
