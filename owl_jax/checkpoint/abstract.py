"""Weights in 8 bits before there are any: shapes, dtypes and shardings of what int8.py makes."""

from __future__ import annotations

from typing import Any

import jax
from flax.traverse_util import flatten_dict, unflatten_dict
from jax.sharding import NamedSharding, PartitionSpec

from owl_jax.checkpoint.int8 import quantize
from owl_jax.models.config import OwlConfig


def int8_params(config: OwlConfig, params: dict[str, Any]) -> dict[str, Any]:
    """The tree with the language model's kernels as int8, and their scales, which lie everywhere.

    params: ShapeDtypeStructs with NamedShardings.
    """
    plain = flatten_dict(params)
    flat = {}
    for path, leaf in flatten_dict(quantize(config, params)).items():
        if path in plain:
            sharding = plain[path].sharding
        else:
            kernel = plain[*path[:-1], "kernel"]
            sharding = NamedSharding(kernel.sharding.mesh, PartitionSpec())
        flat[path] = jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)
    return unflatten_dict(flat)
