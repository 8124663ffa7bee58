"""What mPLUG-Owl2's second keys and values cost on a TPU, without one: one decoder layer.

    python benchmarks/modality.py                    # 65 tokens of pictures in each of 2 sequences
    python benchmarks/modality.py --vectors=1105     # seventeen pictures

Compiles the forward and backward pass of one layer of the 7B for one v5e (`make aot` installs the
compiler; some minutes) and prints FLOPs and the compiler's cycles as milliseconds, good only for
ratios. Variants: LLaMA; owl_jax (project the slots' tokens, scatter them); the same with matmuls by
one-hot rows instead of gather and scatter, and with a gather of all tokens; both projections for
all tokens.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from absl import flags
from jax.sharding import SingleDeviceSharding

from owl_jax import cli
from owl_jax.aot import environment, hlo, work
from owl_jax.aot.compiler import compile_program
from owl_jax.aot.estimate import expected_cycles
from owl_jax.aot.runs import count_runs
from owl_jax.aot.topology import open_topology
from owl_jax.models.attention.mask import self_attention_mask
from owl_jax.models.compute import Compute
from owl_jax.models.language.decoder import DecoderBlock
from owl_jax.models.language.llama import LlamaConfig
from owl_jax.models.language.owl2 import Owl2LlamaBlock, Owl2LlamaConfig
from owl_jax.models.modality import Modality

_VECTORS = flags.DEFINE_integer("vectors", 65, "vectors of a sequence's media slots")
_LENGTH = flags.DEFINE_integer("length", 2_048, "tokens of a sequence")
_SEQUENCES = flags.DEFINE_integer("sequences", 2, "sequences")

Project = Callable[[str, jax.Array], jax.Array]
Pair = tuple[jax.Array, jax.Array]


class _Variant(Owl2LlamaBlock):
    def both(self, project: Project, y: jax.Array, visual: jax.Array) -> tuple[Pair, Pair]:
        """Keys and values of y by the text's weights, and of `visual` by the others."""
        text = project("k_proj", y), project("v_proj", y)
        return text, (project("visual_k_proj", visual), project("visual_v_proj", visual))


class OneHot(_Variant):
    @nn.nowrap
    def key_value(self, project: Project, y: jax.Array, modality: Any) -> Pair:
        rows = jax.nn.one_hot(modality.tokens, y.shape[1], dtype=y.dtype)
        text, visual = self.both(project, y, jnp.einsum("bwl,bld->bwd", rows, y))
        spread = [jnp.einsum("bwl,bwgk->blgk", rows, x) for x in visual]
        k, v = map(modality.select, spread, text)
        return k, v


class Gather(_Variant):
    @nn.nowrap
    def key_value(self, project: Project, y: jax.Array, modality: Any) -> Pair:
        text, visual = self.both(project, y, modality.take(y))
        takes = modality.tokens[:, None, :] == jnp.arange(y.shape[1])[:, None]
        index = takes.argmax(axis=2)[:, :, None, None]
        k, v = map(modality.select, [jnp.take_along_axis(x, index, axis=1) for x in visual], text)
        return k, v


class AllTokens(_Variant):
    @nn.nowrap
    def key_value(self, project: Project, y: jax.Array, modality: Any) -> Pair:
        text, visual = self.both(project, y, y)
        k, v = map(modality.select, visual, text)
        return k, v


VARIANTS: dict[str, type[DecoderBlock]] = {
    "LLaMA": DecoderBlock,
    "slots, scattered": Owl2LlamaBlock,
    "slots, one-hot matmuls": OneHot,
    "slots, gathered by all tokens": Gather,
    "both for all tokens": AllTokens,
}


def layer_cost(block: type[DecoderBlock], chip: Any, device: Any) -> tuple[float, float]:
    """(FLOPs, seconds) of a layer's forward and backward pass."""
    B, L, W = _SEQUENCES.value, _LENGTH.value, _VECTORS.value
    kind = LlamaConfig if block is DecoderBlock else Owl2LlamaConfig
    config = kind(rms_norm_eps=1e-5, max_positions=4096)
    layer = block(config, Compute(dtype=jnp.bfloat16, attention="xla"), None)

    def array(dtype: Any, *shape: int) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, dtype, sharding=SingleDeviceSharding(device))

    def arguments(x: Any, rotation: Any, ids: Any) -> tuple[Any, ...]:
        modality = None if block is DecoderBlock else Modality.of(ids, W)
        return x, None, (rotation, rotation), self_attention_mask(ids, ids), modality

    def init(*inputs: Any) -> Any:
        key = jax.random.key(0)
        return nn.meta.unbox(layer.init(key, *arguments(*inputs), deterministic=True))["params"]

    def total(params: Any, *inputs: Any) -> jax.Array:
        run = layer.apply({"params": params}, *arguments(*inputs), deterministic=True)
        return jnp.sum(run[0].astype(jnp.float32))

    inputs = (
        array(jnp.bfloat16, B, L, config.hidden_size),
        array(jnp.float32, B, L, 1, config.head_dim),
        array(jnp.int32, B, L),
    )
    params = jax.tree.map(lambda x: array(jnp.bfloat16, *x.shape), jax.eval_shape(init, *inputs))
    lowered = jax.jit(jax.grad(total, argnums=(0, 1))).trace(params, *inputs).lower()
    runs = count_runs(hlo.parse(compile_program(lowered).text))
    cycles = sum(count * expected_cycles(step) for _, step, count in runs.steps())
    return work.matmul_flops(runs), cycles / chip.clock


def main(_: list[str]) -> None:
    """Prints a line for each variant."""
    if importlib.util.find_spec("libtpu") is None:
        print("skipped: libtpu is not installed; `make aot` installs it")
        return
    environment.prepare()
    topology = open_topology("v5e:1x1")
    print(f"{'variant':<32}{'TFLOP':>8}{'x LLaMA':>10}{'ms, est.':>10}{'x LLaMA':>10}")
    base = None
    for name, block in VARIANTS.items():
        flops, seconds = layer_cost(block, topology.chip, topology.devices[0])
        base = base or (flops, seconds)
        ratios = flops / base[0], seconds / base[1]
        print(
            f"{name:<32}{flops / 1e12:>8.3f}{ratios[0]:>10.3f}{1e3 * seconds:>10.1f}"
            f"{ratios[1]:>10.3f}",
            flush=True,
        )


if __name__ == "__main__":
    cli.run(main)
