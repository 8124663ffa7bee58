"""Building blocks shared by all parts: projections, norms, activations.

Letters: B batch, L tokens, D model width, H heads, K head width, F MLP width, R LoRA rank.

Kernels have a head axis ([D, H, K], not [D, H * K]). An einsum straight to heads avoids a reshape,
which would change the layout on a TPU, and a mesh axis can shard heads by name.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from owl_jax.models.lora import LoraConfig, low_rank_update
from owl_jax.models.matmul import matmul, matmul_transposed, widen

Axes = Mapping[Any, int]  # logical axis name (or None) -> size, in order

INIT_STDDEV = 0.02  # initializer_range of the original's three towers.


def normal_init(names: Sequence[str | None], stddev: float = INIT_STDDEV) -> Any:
    """Normal initialiser whose result carries the logical axis `names`."""
    return nn.with_logical_partitioning(nn.initializers.normal(stddev), tuple(names))


def constant_init(value: float, names: Sequence[str | None]) -> Any:
    """Constant initialiser whose result carries the logical axis `names`."""
    return nn.with_logical_partitioning(nn.initializers.constant(value), tuple(names))


def truncated_init(names: Sequence[str | None], stddev: float = INIT_STDDEV) -> Any:
    """Truncated normal initialiser whose result carries the logical axis `names`."""
    return nn.with_logical_partitioning(nn.initializers.truncated_normal(stddev), tuple(names))


class Projection(nn.Module):
    """y = x W (+ b) (+ LoRA), contracting the last axes of x.

    in_axes, out_axes: logical name (parallel/sharding.py) and size of the axes contracted and
      produced: {"embed": D} and {"heads": H, "kv": K} for a query projection.
    lora: adapts this projection if its module name is among `lora.targets` (models/lora.py).
    An int8 kernel comes with a parameter `scale` of the output's shape, which multiplies the result
    (checkpoint/int8.py); `init` does not create it.
    """

    in_axes: Axes
    out_axes: Axes
    use_bias: bool = False
    dtype: Any = jnp.float32
    lora: LoraConfig | None = None
    stddev: float = INIT_STDDEV

    @nn.compact
    def __call__(self, x: jax.Array, deterministic: bool = True) -> jax.Array:
        in_axes, out_axes = dict(self.in_axes), dict(self.out_axes)
        axes = in_axes | out_axes
        kernel = self.param(
            "kernel", normal_init((*in_axes, *out_axes), self.stddev), (*axes.values(),)
        )
        y = matmul(x.astype(self.dtype), kernel, len(in_axes))
        if self.has_variable("params", "scale"):
            y = (y * self.get_variable("params", "scale")).astype(self.dtype)
        if self.lora is not None and self.name in self.lora.targets:
            y += low_rank_update(self, x, self.lora, in_axes, out_axes, self.dtype, deterministic)
        if self.use_bias:
            bias = self.param("bias", constant_init(0.0, (*out_axes,)), (*out_axes.values(),))
            y += bias.astype(self.dtype)
        return y


class LayerNorm(nn.Module):
    """LayerNorm over the last axis, computed in float32 and cast back (original: LayerNormFp32)."""

    eps: float
    names: tuple[str | None, ...] = ("embed",)

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        width = x.shape[-1:]
        scale = self.param("scale", constant_init(1.0, self.names), width)
        bias = self.param("bias", constant_init(0.0, self.names), width)
        wide = x.astype(jnp.float32)
        mean = wide.mean(-1, keepdims=True)
        variance = jnp.square(wide - mean).mean(-1, keepdims=True)
        y = (wide - mean) * jax.lax.rsqrt(variance + self.eps)
        return (y * scale.astype(jnp.float32) + bias.astype(jnp.float32)).astype(x.dtype)


class RMSNorm(nn.Module):
    """Root-mean-square norm over the last axis (arXiv 1910.07467), in float32, cast back."""

    eps: float
    names: tuple[str | None, ...] = ("embed",)

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        scale = self.param("scale", constant_init(1.0, self.names), x.shape[-1:])
        wide = x.astype(jnp.float32)
        y = wide * jax.lax.rsqrt(jnp.square(wide).mean(-1, keepdims=True) + self.eps)
        return (y * scale.astype(jnp.float32)).astype(x.dtype)


class Embedding(nn.Module):
    """Token embedding; `attend` is the tied output head."""

    vocab_size: int
    width: int
    dtype: Any = jnp.float32

    def setup(self) -> None:
        self.embedding = self.param(
            "embedding", normal_init(("vocab", "embed")), (self.vocab_size, self.width)
        )

    def __call__(self, ids: jax.Array) -> jax.Array:
        return widen(jnp.take(self.embedding, ids, axis=0), self.dtype)

    def attend(self, x: jax.Array) -> jax.Array:
        return matmul_transposed(x, self.embedding)


def quick_gelu(x: jax.Array) -> jax.Array:
    """x * sigmoid(1.702 x): CLIP's approximation of GELU."""
    return x * jax.nn.sigmoid(1.702 * x)


def bloom_gelu(x: jax.Array) -> jax.Array:
    """The tanh form of GELU with BLOOM's constants (transformers, bloom_gelu_forward)."""
    return 0.5 * x * (1.0 + jnp.tanh(math.sqrt(2.0 / math.pi) * x * (1.0 + 0.044715 * x * x)))
