"""A stack of identical layers, scanned or unrolled, with rematerialisation.

When scanned, the weights of all layers are one array with a leading axis "layers", and XLA compiles
one layer, so compile time does not grow with depth. On CPU the scan copies each layer's slice at
every step, which makes decoding up to 1.5 times slower; `unstack` returns the unrolled weights.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict

from owl_jax.models.cache import Cache, Past, past_of
from owl_jax.models.remat import policy

Carry = Any


def apply_layers(
    make_block: Callable[..., nn.Module],
    length: int,
    carry: Carry,
    cache: Cache | None,
    *shared: Any,
    scan: bool,
    remat: str,
    deterministic: bool = True,
) -> tuple[Carry, Any]:
    """Applies `length` blocks in sequence, inside a module's compact method.

    Args:
      make_block: (name=...) -> module with
        __call__(carry, past, *shared, deterministic) -> (carry, output), where `past` is the
        layer's part of the cache (models/cache.py).
      cache: stacked if `scan`, else a tuple of `length`; or None.
      shared: inputs of every layer.
      remat: a policy (models/remat.py).

    Returns: (carry, outputs), the outputs stacked or a tuple like the cache.
    Raises UserError for an unknown remat policy.
    """

    def body(block: Any, carry: Carry, past: Past | None, *shared: Any) -> tuple[Carry, Any]:
        return block(carry, past, *shared, deterministic=deterministic)

    if remat != "none":
        body = nn.remat(body, prevent_cse=not scan, policy=policy(remat))
    if scan:

        def layer(block: Any, carry: Carry, index: Any, *shared: Any) -> tuple[Carry, Any]:
            return body(block, carry, past_of(cache, index), *shared)

        target: Any = body if cache is None else layer
        scanned = nn.scan(
            target,
            variable_axes={"params": 0, "lora": 0, "intermediates": 0},
            split_rngs={"params": True, "dropout": True},
            in_axes=(0, *[nn.broadcast] * len(shared)),
            length=length,
            metadata_params={nn.PARTITION_NAME: "layers"},
        )
        indices = None if cache is None else jnp.arange(length)
        return scanned(make_block(name="layers"), carry, indices, *shared)
    outputs = []
    for i in range(length):
        carry, output = body(make_block(name=f"layer_{i}"), carry, past_of(cache, i), *shared)
        outputs.append(output)
    return carry, tuple(outputs)


def unstack(tree: Mapping[str, Any], cut: Callable[[Any], Sequence[Any]] = list) -> dict[str, Any]:
    """Splits each "layers" subtree of a scanned tree into subtrees "layer_0", "layer_1", ...

    Weights that are not stacked stay as they are. cut: a stacked leaf -> its layers.
    """
    result: dict[tuple[str, ...], Any] = {}
    for path, leaf in flatten_dict(dict(tree)).items():
        if "layers" not in path:
            result[path] = leaf
            continue
        at = path.index("layers")
        for i, layer in enumerate(cut(leaf)):
            result[*path[:at], f"layer_{i}", *path[at + 1 :]] = layer
    return dict(unflatten_dict(result))


def restack(
    tree: Mapping[str, Any], join: Callable[[Sequence[Any]], Any] = jnp.stack
) -> dict[str, Any]:
    """The inverse of `unstack`. join: the leaves of all layers -> a stacked leaf."""
    result: dict[tuple[str, ...], Any] = {}
    unstacked: dict[tuple[str, ...], dict[int, Any]] = defaultdict(dict)
    for path, leaf in flatten_dict(dict(tree)).items():
        at = next((i for i, name in enumerate(path) if re.fullmatch(r"layer_\d+", name)), None)
        if at is None:
            result[path] = leaf
        else:
            number = int(path[at].removeprefix("layer_"))
            unstacked[*path[:at], "layers", *path[at + 1 :]][number] = leaf
    for path, layers in unstacked.items():
        result[path] = join([layers[number] for number in sorted(layers)])
    return dict(unflatten_dict(result))
