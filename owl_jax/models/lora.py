"""Low-rank adaptation: where it meets a projection, and how it is merged into one.

Letters: D input axes, O output axes, R rank.

The factors live in a tree of their own (branch `lora`), addressed by the projection they adapt:
`llm/layers/q_proj/kernel` is adapted by `lora/layers/q_proj/{a,b}`. The
base tree is the same with and without them. Semantics are PEFT's (LoraConfig, Linear.forward):
delta = (alpha / rank) * (dropout(x) A) B, A random, B zero, so that a new adapter changes nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict

from owl_jax.models.bounds import Alpha, Dropout, Name, Rank
from owl_jax.models.remat import named

COLLECTION = "lora"  # the Linen variable collection behind the tree's `lora` branch
# PEFT draws A from Kaiming-uniform with a = sqrt(5): uniform(-1/sqrt(D), 1/sqrt(D)), whose variance
# is a third of 1/D.
_A_VARIANCE_SCALE = 1.0 / 3.0
_DRAWS = 2**16  # values of half a random word


@dataclass(frozen=True)
class LoraConfig:
    """Low-rank adaptation (arXiv 2106.09685) of the language model's projections `targets`."""

    rank: Rank = 8
    alpha: Alpha = 32.0
    dropout: Dropout = 0.05
    targets: tuple[Name, ...] = ("q_proj", "v_proj")

    @property
    def scale(self) -> float:
        return self.alpha / self.rank


def low_rank_update(
    projection: nn.Module,
    x: jax.Array,
    config: LoraConfig,
    in_axes: Mapping[str | None, int],
    out_axes: Mapping[str | None, int],
    dtype: Any,
    deterministic: bool,
) -> jax.Array:
    """What the adapter adds to `projection`'s output for input x; declares the factors in it.

    in_axes, out_axes: logical name -> size of the axes contracted and produced, in order.
    """
    names_in, shape_in = zip(*in_axes.items(), strict=True)
    names_out, shape_out = zip(*out_axes.items(), strict=True)
    depth = len(shape_in)
    a_init = nn.with_logical_partitioning(
        nn.initializers.variance_scaling(
            _A_VARIANCE_SCALE, "fan_in", "uniform", in_axis=tuple(range(depth))
        ),
        (*names_in, "rank"),
    )
    b_init = nn.with_logical_partitioning(nn.initializers.zeros, ("rank", *names_out))

    def factor(name: str, init: Any, shape: tuple[int, ...]) -> jax.Array:
        make = lambda: init(projection.make_rng("params"), shape)  # noqa: E731
        return projection.variable(COLLECTION, name, make).value.astype(dtype)

    a = factor("a", a_init, (*shape_in, config.rank))
    b = factor("b", b_init, (config.rank, *shape_out))
    if config.dropout and not deterministic:
        x = dropout(projection.make_rng("dropout"), x, config.dropout)
    middle = named("lora", jnp.tensordot(x.astype(dtype), a, axes=depth))
    return config.scale * jnp.tensordot(middle, b, axes=1)


def dropout(key: jax.Array, x: jax.Array, rate: float) -> jax.Array:
    """x with each element zero with probability `rate`, the others divided by 1 - rate.

    x: [..., D], and so is the result. The rate is rounded to a multiple of 1 / 65536, also where it
    divides. Which elements are zero depends on key and shape, not on how x is sharded.
    """
    kept = round((1.0 - rate) * _DRAWS)
    if kept == 0:
        return jnp.zeros_like(x)
    *rows, width = x.shape
    # A word of 32 bits for two elements: on a TPU, drawing them is most of what dropout costs.
    words = jax.random.bits(key, (*rows, math.ceil(width / 2)))
    # Side by side and not in turns, which would change the layout.
    mask = jnp.concatenate([words % _DRAWS < kept, words // _DRAWS < kept], axis=-1)
    scaled = x.astype(jnp.float32) * (_DRAWS / kept)
    return jnp.where(mask[..., :width], scaled, 0.0).astype(x.dtype)


def merge(llm: Mapping[str, Any], lora: Mapping[str, Any], config: LoraConfig) -> dict[str, Any]:
    """Returns the language model's tree with W + (alpha / rank) A B in place of each adapted W.

    Computed in float32 and cast back to the kernel's dtype; stacked layers one by one.
    Raises KeyError if a factor addresses a projection that `llm` does not have.
    """
    merged = flatten_dict(dict(llm))
    factors = flatten_dict(dict(lora))
    for path in {path[:-1] for path in factors}:
        target = (*path, "kernel")
        kernel = merged[target]
        product = partial(jnp.tensordot, axes=1)
        if "layers" in path:
            product = jax.vmap(product)
        a, b = (factors[(*path, name)].astype(jnp.float32) for name in "ab")
        delta = config.scale * product(a, b)
        merged[target] = (kernel.astype(jnp.float32) + delta).astype(kernel.dtype)
    return unflatten_dict(merged)
