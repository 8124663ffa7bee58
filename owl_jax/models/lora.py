"""Low-rank adaptation: the update of a projection, and merging it into the weights.

Letters: D input axes, O output axes, R rank.

The factors are in the subtree `lora`, under the path of the projection they adapt:
`lora/layers/q_proj/{a,b}` adapts `llm/layers/q_proj/kernel`. The base tree is the same with and
without them. Semantics are PEFT's (LoraConfig, Linear.forward):
delta = (alpha / rank) * (dropout(x) A) B. A is random, B zero, so a new adapter changes nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from owl_jax.models.bounds import Alpha, Dropout, Name, Rank
from owl_jax.models.remat import named

COLLECTION = "lora"  # the Linen variable collection of the `lora` subtree
_ACTIVE = "active"  # beside the factors: which ranks each sequence uses, [B, R]
# PEFT draws A from Kaiming-uniform with a = sqrt(5): uniform(-1/sqrt(D), 1/sqrt(D)), whose variance
# is a third of 1/D.
_A_VARIANCE_SCALE = 1.0 / 3.0
_DRAWS = 2**16  # number of values that half a random word can take


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
    """What the adapter adds to the output of `projection` for input x.

    Declares the factors in `projection`.

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
    if projection.has_variable(COLLECTION, _ACTIVE):
        active: jax.Array = projection.get_variable(COLLECTION, _ACTIVE)
        shape = (len(active), *[1] * (middle.ndim - 2), config.rank)
        middle *= active.reshape(shape).astype(dtype)
    return config.scale * jnp.tensordot(middle, b, axes=1)


def side_by_side(
    adapters: Sequence[tuple[LoraConfig, Mapping[str, Any]]],
) -> tuple[LoraConfig, dict[str, Any], np.ndarray]:
    """Several adapters of one model as one, whose ranks are theirs, one adapter after the other.

    adapters: the config and the `lora` subtree of each, arrays of NumPy or JAX.

    Returns: (config, subtree, owners int32[R]: the number of the adapter that each rank belongs to,
    from 1 on). `activate` selects each sequence's ranks, so that one batch uses several adapters.
    """
    ranks = [config.rank for config, _ in adapters]
    total = sum(ranks)
    targets = tuple(sorted({name for config, _ in adapters for name in config.targets}))
    trees = [flatten_dict(dict(tree)) for _, tree in adapters]
    starts = np.cumsum([0, *ranks])
    combined: dict[tuple[str, ...], Any] = {}
    for (config, _), tree, start in zip(adapters, trees, starts, strict=False):
        for path, factor in tree.items():
            # The scale of each adapter goes into its B; that of all together is 1.
            value = np.asarray(factor, np.float32) * (config.scale if path[-1] == "b" else 1)
            axis = value.ndim - 1 if path[-1] == "a" else int("layers" in path)
            shape = list(value.shape)
            shape[axis] = total
            whole = combined.setdefault(path, np.zeros(shape, np.float32))
            np.moveaxis(whole, axis, 0)[start : start + config.rank] = np.moveaxis(value, axis, 0)
    owners = np.repeat(np.arange(1, len(ranks) + 1, dtype=np.int32), ranks)
    config = LoraConfig(rank=total, alpha=float(total), dropout=0.0, targets=targets)
    return config, unflatten_dict(combined), owners


def activate(
    lora: Mapping[str, Any], owners: jax.Array, adapters: jax.Array, num_layers: int
) -> dict[str, Any]:
    """The subtree with which sequence b uses adapter adapters[b] of `side_by_side`; 0: none.

    adapters: int32[B].
    """
    active = (owners == adapters[:, None]).astype(jnp.float32)
    flat = flatten_dict(dict(lora))
    for path in {path[:-1] for path in flat}:
        is_stacked = "layers" in path
        flat[*path, _ACTIVE] = jnp.stack([active] * num_layers) if is_stacked else active
    return dict(unflatten_dict(flat))


def dropout(key: jax.Array, x: jax.Array, rate: float) -> jax.Array:
    """Zeroes each element of x [..., D] with probability `rate` and divides the others by 1 - rate.

    For both, the rate is rounded to the same multiple of 1 / 65536. The mask depends on key and
    shape, not on the sharding of x.
    """
    kept = round((1.0 - rate) * _DRAWS)
    if kept == 0:
        return jnp.zeros_like(x)
    *batch, width = x.shape
    # One 32-bit word per two elements: on a TPU random bits are most of dropout's cost.
    words = jax.random.bits(key, (*batch, math.ceil(width / 2)))
    # Concatenated, not interleaved: interleaving would change the layout.
    mask = jnp.concatenate([words % _DRAWS < kept, words // _DRAWS < kept], axis=-1)
    scaled = x.astype(jnp.float32) * (_DRAWS / kept)
    return jnp.where(mask[..., :width], scaled, 0.0).astype(x.dtype)


def merge(llm: Mapping[str, Any], lora: Mapping[str, Any], config: LoraConfig) -> dict[str, Any]:
    """The language model's tree with W + (alpha / rank) A B in place of each adapted W.

    Computed in float32 and cast back to the kernel's dtype. Raises KeyError for factors of a
    projection that `llm` does not have.
    """
    merged = flatten_dict(dict(llm))
    factors = flatten_dict(dict(lora))
    for path in {path[:-1] for path in factors}:
        target = (*path, "kernel")
        kernel = merged[target]
        matmul = partial(jnp.tensordot, axes=1)
        if "layers" in path:
            matmul = jax.vmap(matmul)
        a, b = (factors[(*path, name)].astype(jnp.float32) for name in "ab")
        delta = config.scale * matmul(a, b)
        merged[target] = (kernel.astype(jnp.float32) + delta).astype(kernel.dtype)
    return unflatten_dict(merged)
