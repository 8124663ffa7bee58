"""Shapes, dtypes and shardings of what the inference core takes, with nothing in memory.

Letters: P prompts, L tokens, B rows, S slots, N images, M videos, T frames.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from owl_jax.checkpoint.int8 import abstract_int8
from owl_jax.data.batch import SequenceShape
from owl_jax.errors import UserError
from owl_jax.inference.core import DecodeState, Prefilled, empty_state, logical_axes, prefill
from owl_jax.inference.layouts import formats
from owl_jax.inference.prompt import Prompt
from owl_jax.models.compute import Compute
from owl_jax.models.config import OwlConfig
from owl_jax.parallel.sharding import BATCH_AXES, LogicalRules, num_batch_shards, on_mesh

Tree = dict[str, Any]


def abstract_weights(model: OwlConfig, params: Tree, mesh: Mesh, dtype: str) -> Tree:
    """Weights of `dtype`: "bfloat16", "float32" or "int8" as in `owl_jax.load`.

    params: the parameter tree as ShapeDtypeStructs with shardings, of any dtype.
    Raises UserError if the mesh cannot divide the heads of the cache.
    """
    heads, tensor = model.llm.num_kv_heads, mesh.shape["tensor"]
    if heads % tensor:
        raise UserError(
            f"mesh axis tensor={tensor} does not divide the {heads} heads of the cache; expected a "
            "divisor"
        )
    stored_as = jnp.dtype("bfloat16" if dtype == "int8" else dtype)
    weights = jax.tree.map(lambda leaf: leaf.update(dtype=stored_as), params)
    flat = flatten_dict(abstract_int8(model, weights) if dtype == "int8" else weights)
    shardings = {path: leaf.sharding for path, leaf in flat.items()}
    on_devices = formats(model, flat, shardings, mesh.devices.flat[0].platform)
    return unflatten_dict(
        {path: leaf.update(sharding=on_devices[path]) for path, leaf in flat.items()}
    )


def abstract_prompt(mesh: Mesh, num_prompts: int, sequence: SequenceShape) -> Prompt:
    """P prompts of `sequence.length` tokens, with its media slots."""
    P, L, S = num_prompts, sequence.length, sequence.image_size
    N, M, T = sequence.image_slots, sequence.video_slots, sequence.frames
    batch = None if P % num_batch_shards(mesh) else BATCH_AXES

    def array(dtype: Any, *shape: int) -> Any:
        sharding = NamedSharding(mesh, PartitionSpec(batch))
        return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)

    return Prompt(
        input_ids=array(jnp.int32, P, L),
        media_index=array(jnp.int32, P, L),
        lengths=array(jnp.int32, P),
        images=array(jnp.uint8, P, N, S, S, 3) if N else None,
        videos=array(jnp.uint8, P, M, T, S, S, 3) if M else None,
    )


def abstract_prefilled(
    model: OwlConfig, compute: Compute, mesh: Mesh, params: Tree, prompt: Prompt
) -> Prefilled:
    """What `prefill` returns, sharded like a row of the cache."""
    with on_mesh(mesh, len(prompt.lengths)):
        shapes = jax.eval_shape(partial(prefill, model, compute), params, prompt)
    layers = [None] * (len(jax.tree.leaves(shapes.new)[0].shape) - 4)
    batch = None if len(prompt.lengths) % num_batch_shards(mesh) else BATCH_AXES
    cache = NamedSharding(mesh, PartitionSpec(*layers, batch, "tensor"))
    logits = NamedSharding(mesh, PartitionSpec(batch, "tensor"))
    return Prefilled(
        jax.tree.map(lambda leaf: leaf.update(sharding=cache), shapes.new),
        shapes.logits.update(sharding=logits),
    )


def abstract_state(
    model: OwlConfig, compute: Compute, mesh: Mesh, params: Tree, num_rows: int, num_slots: int
) -> DecodeState:
    """A state of B rows of S slots."""
    rules = LogicalRules()
    names = dict(rules.flax_rules()) | (
        {"batch": None} if num_rows % num_batch_shards(mesh) else {}
    )
    with on_mesh(mesh, num_rows):
        make = partial(empty_state, model, compute, num_rows=num_rows, num_slots=num_slots)
        shapes = jax.eval_shape(make, params)

    def shard(leaf: jax.ShapeDtypeStruct, axes: tuple[str | None, ...]) -> jax.ShapeDtypeStruct:
        spec = PartitionSpec(*(name and names[name] for name in axes))
        return leaf.update(sharding=NamedSharding(mesh, spec))

    return jax.tree.map(shard, shapes, logical_axes(shapes))
