"""The benchmarks by name: one file each."""

from owl_jax.evaluation.benchmark import Benchmark
from owl_jax.evaluation.benchmarks.hallusionbench import HallusionBench
from owl_jax.evaluation.benchmarks.mmbench import MmBench
from owl_jax.evaluation.benchmarks.mme import Mme
from owl_jax.evaluation.benchmarks.mme_realworld import MmeRealWorld
from owl_jax.evaluation.benchmarks.mmmu import Mmmu
from owl_jax.evaluation.benchmarks.mmmu_pro import MmmuPro
from owl_jax.evaluation.benchmarks.mmstar import MmStar
from owl_jax.evaluation.benchmarks.pope import Pope
from owl_jax.evaluation.benchmarks.scienceqa import ScienceQa
from owl_jax.evaluation.benchmarks.seedbench import SeedBench
from owl_jax.evaluation.benchmarks.wemath import WeMath

BENCHMARKS: dict[str, Benchmark] = {
    benchmark.name: benchmark
    for benchmark in (
        HallusionBench(),
        MmBench(),
        Mme(),
        MmeRealWorld(),
        Mmmu(),
        MmmuPro(),
        MmStar(),
        Pope(),
        ScienceQa(),
        SeedBench(),
        WeMath(),
    )
}
