"""Prefill and decode before anything of them is in memory: shapes, dtypes and shardings.

Letters: B rows, L prompt slots, C slots for new tokens, S = L + C, N images, M videos, T frames.

The functions are those of inference/generate.py; what they take lies as the engine puts it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from owl_jax.checkpoint.int8 import abstract_int8
from owl_jax.data.batch import RowShape
from owl_jax.errors import UserError
from owl_jax.inference.generate import DecodeState, decode, prefill
from owl_jax.inference.prompt import BUCKET, Prompt, round_up
from owl_jax.inference.sampling import Sampling
from owl_jax.models.compute import Compute
from owl_jax.models.config import OwlConfig
from owl_jax.parallel.sharding import BATCH_AXES, LogicalRules, num_batch_shards

Tree = dict[str, Any]


@dataclass(frozen=True)
class InferenceProgram:
    """params: the whole tree as ShapeDtypeStructs, as inference/load.py places it.

    row: a row's room, its prompt and the new tokens together. capacity: of these, C for new tokens.
    """

    model: OwlConfig
    compute: Compute
    mesh: Mesh
    params: Tree
    row: RowShape
    rows: int
    capacity: int

    def prompt(self) -> Prompt:
        """A batch of prompts as ShapeDtypeStructs."""
        B, L, S = self.rows, self.row.length - self.capacity, self.row.image_size
        N, M, T = self.row.image_slots, self.row.video_slots, self.row.frames
        ids, number = (self._array(jnp.int32, *shape) for shape in ((B, L), (B,)))
        return Prompt(
            input_ids=ids,
            positions=ids,
            key_segments=ids,
            media_index=ids,
            lengths=number,
            last=number,
            images=self._array(jnp.uint8, B, N, S, S, 3) if N else None,
            videos=self._array(jnp.uint8, B, M, T, S, S, 3) if M else None,
        )

    def state(self) -> DecodeState:
        """What prefill leaves to decode, as ShapeDtypeStructs."""
        run = partial(prefill, self.model, self.compute, capacity=self.capacity)
        arguments = self._arguments()
        with self._active():
            shapes = jax.eval_shape(run, *arguments)
        rows, tensor = self._row_axes(), "tensor"

        def placed(spec: PartitionSpec, leaf: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
            return leaf.update(sharding=NamedSharding(self.mesh, spec))

        by_row = partial(placed, PartitionSpec(rows))
        whole = partial(placed, PartitionSpec())
        return dataclasses.replace(
            shapes,
            cache=jax.tree.map(partial(placed, PartitionSpec(None, rows, tensor)), shapes.cache),
            tokens=by_row(shapes.tokens),
            count=whole(shapes.count),
            logits=by_row(shapes.logits),
            done=by_row(shapes.done),
            lengths=by_row(shapes.lengths),
            key_positions=by_row(shapes.key_positions),
            key_segments=by_row(shapes.key_segments),
            keys=by_row(shapes.keys),
            eos_id=whole(shapes.eos_id),
            sampling=jax.tree.map(whole, shapes.sampling),
        )

    def trace_prefill(self) -> jax.stages.Traced:
        """Traces reading the prompts and choosing the first new tokens."""
        return self._trace(prefill, *self._arguments(), capacity=self.capacity)

    def trace_decode(self) -> jax.stages.Traced:
        """Traces the loop over new tokens."""
        return self._trace(decode, self.params, self.state(), self._array(jnp.int32))

    def _trace(self, function: Any, *arguments: Any, **options: Any) -> jax.stages.Traced:
        with self._active():
            traced: jax.stages.Traced = function.trace(
                self.model, self.compute, *arguments, **options
            )
        return traced

    @contextmanager
    def _active(self) -> Iterator[None]:
        logical = LogicalRules()
        if self._row_axes() is None:
            logical = dataclasses.replace(logical, batch=None)
        with jax.set_mesh(self.mesh), nn.logical_axis_rules(logical.flax_rules()):
            yield

    def _arguments(self) -> tuple[Any, ...]:
        """params, prompt, sampling, key and eos_id of prefill."""
        everywhere = NamedSharding(self.mesh, PartitionSpec())
        sampling = jax.eval_shape(lambda: Sampling.of(0.0, None, None))
        key = jax.eval_shape(lambda: jax.random.key(0))
        small = jax.tree.map(lambda leaf: leaf.update(sharding=everywhere), (sampling, key))
        return self.params, self.prompt(), *small, self._array(jnp.int32)

    def _array(self, dtype: Any, *shape: int) -> Any:
        """A ShapeDtypeStruct: a number lies everywhere, an array of rows by row."""
        spec = PartitionSpec(self._row_axes()) if shape else PartitionSpec()
        return jax.ShapeDtypeStruct(shape, dtype, sharding=NamedSharding(self.mesh, spec))

    def _row_axes(self) -> Any:
        """As the engine: rows that the axes do not divide are everywhere."""
        return None if self.rows % num_batch_shards(self.mesh) else BATCH_AXES


def make_inference_program(
    model: OwlConfig,
    params: Tree,
    mesh: Mesh,
    dtype: str,
    row: RowShape,
    rows: int,
    new_tokens: int,
    attention: str = "xla",
) -> InferenceProgram:
    """A program for weights of `dtype`: "bfloat16", "float32" or "int8" as in `owl_jax.load`.

    params: the parameter tree as ShapeDtypeStructs with their shardings, of any dtype.
    Raises UserError for a prompt that has no room, and heads that the mesh cannot divide.
    """
    capacity = round_up(new_tokens)
    if row.length <= capacity:
        raise UserError(
            f"--new_tokens={new_tokens}: too many for a row of {row.length} positions; rounded up "
            f"to a multiple of {BUCKET}, there is no room for {capacity} new tokens and a prompt. "
            "Give fewer, or make config.data.length longer"
        )
    heads, tensor = model.llm.num_kv_heads, mesh.shape["tensor"]
    if heads % tensor:
        raise UserError(
            f"mesh axis tensor={tensor} does not divide the {heads} heads of the cache; make it a "
            "divisor"
        )
    stored_as = jnp.dtype("bfloat16" if dtype == "int8" else dtype)
    kept = jax.tree.map(lambda leaf: leaf.update(dtype=stored_as), params)
    if dtype == "int8":
        kept = abstract_int8(model, kept)
    compute = Compute(dtype=stored_as, attention=attention)
    return InferenceProgram(model, compute, mesh, kept, row, rows, capacity)
