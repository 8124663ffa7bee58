"""The benchmarks by name: one file each."""

from owl_jax.evaluation.benchmark import Benchmark
from owl_jax.evaluation.benchmarks.coco_caption import CocoCaption
from owl_jax.evaluation.benchmarks.hallusionbench import HallusionBench
from owl_jax.evaluation.benchmarks.jsonl import Jsonl
from owl_jax.evaluation.benchmarks.llava_bench import LlavaBench
from owl_jax.evaluation.benchmarks.mlvu import Mlvu, MlvuOpen
from owl_jax.evaluation.benchmarks.mmbench import MmBench
from owl_jax.evaluation.benchmarks.mme import Mme
from owl_jax.evaluation.benchmarks.mme_realworld import MmeRealWorld
from owl_jax.evaluation.benchmarks.mmhal import MmHal
from owl_jax.evaluation.benchmarks.mmmu import Mmmu
from owl_jax.evaluation.benchmarks.mmmu_pro import MmmuPro
from owl_jax.evaluation.benchmarks.mmstar import MmStar
from owl_jax.evaluation.benchmarks.mvbench import MvBench
from owl_jax.evaluation.benchmarks.owleval import OwlEval
from owl_jax.evaluation.benchmarks.pope import Pope
from owl_jax.evaluation.benchmarks.scienceqa import ScienceQa
from owl_jax.evaluation.benchmarks.seedbench import SeedBench
from owl_jax.evaluation.benchmarks.tempcompass import TempCompass
from owl_jax.evaluation.benchmarks.vqav2 import Vqav2
from owl_jax.evaluation.benchmarks.wemath import WeMath

BENCHMARKS: dict[str, Benchmark] = {
    benchmark.name: benchmark
    for benchmark in (
        CocoCaption(),
        HallusionBench(),
        Jsonl(),
        LlavaBench(),
        Mlvu(),
        MlvuOpen(),
        MmBench(),
        Mme(),
        MmeRealWorld(),
        MmHal(),
        Mmmu(),
        MmmuPro(),
        MmStar(),
        MvBench(),
        OwlEval(),
        Pope(),
        ScienceQa(),
        SeedBench(),
        TempCompass(),
        Vqav2(),
        WeMath(),
    )
}
