"""Abstract prefill and decode programs: shapes, dtypes and shardings, with nothing in memory.

Letters: B sequences, L prompt slots, C slots for new tokens, S = L + C, N images, M videos,
T frames.

The functions are those of inference/generate.py; arguments are sharded as the engine shards them.
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
from owl_jax.inference.generate import END_IDS, DecodeState, decode, prefill
from owl_jax.inference.prompt import BUCKET, Prompt, round_up
from owl_jax.inference.sampling import Sampling
from owl_jax.models.compute import Compute
from owl_jax.models.config import OwlConfig
from owl_jax.parallel.sharding import BATCH_AXES, LogicalRules, num_batch_shards

Tree = dict[str, Any]


@dataclass(frozen=True)
class InferenceProgram:
    """Prefill and decode of a batch of prompts on a mesh.

    params: the whole tree as ShapeDtypeStructs, sharded as inference/load.py shards it.
    sequence: the shape of a sequence, with prompt and new tokens.
    capacity: C, slots for new tokens.
    """

    model: OwlConfig
    compute: Compute
    mesh: Mesh
    params: Tree
    sequence: RowShape
    batch_size: int
    capacity: int

    def prompt(self) -> Prompt:
        """A batch of prompts as ShapeDtypeStructs."""
        sequence = self.sequence
        B, L, S = self.batch_size, sequence.length - self.capacity, sequence.image_size
        N, M, T = sequence.image_slots, sequence.video_slots, sequence.frames
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
        """The state after prefill as ShapeDtypeStructs."""
        run = partial(prefill, self.model, self.compute, capacity=self.capacity)
        arguments = self._arguments()
        with self._active():
            shapes = jax.eval_shape(run, *arguments)
        batch, tensor = self._batch_axes(), "tensor"

        def shard(spec: PartitionSpec, leaf: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
            return leaf.update(sharding=NamedSharding(self.mesh, spec))

        by_batch = partial(shard, PartitionSpec(batch))
        replicated = partial(shard, PartitionSpec())
        return dataclasses.replace(
            shapes,
            cache=jax.tree.map(partial(shard, PartitionSpec(None, batch, tensor)), shapes.cache),
            tokens=by_batch(shapes.tokens),
            count=replicated(shapes.count),
            logits=by_batch(shapes.logits),
            done=by_batch(shapes.done),
            lengths=by_batch(shapes.lengths),
            key_positions=by_batch(shapes.key_positions),
            key_segments=by_batch(shapes.key_segments),
            keys=by_batch(shapes.keys),
            end_ids=replicated(shapes.end_ids),
            sampling=jax.tree.map(replicated, shapes.sampling),
        )

    def trace_prefill(self) -> jax.stages.Traced:
        """Traces prefill."""
        return self._trace(prefill, *self._arguments(), capacity=self.capacity)

    def trace_decode(self) -> jax.stages.Traced:
        """Traces the decode loop."""
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
        if self._batch_axes() is None:
            logical = dataclasses.replace(logical, batch=None)
        with jax.set_mesh(self.mesh), nn.logical_axis_rules(logical.flax_rules()):
            yield

    def _arguments(self) -> tuple[Any, ...]:
        """params, prompt, sampling, key and end_ids of prefill."""
        replicated = NamedSharding(self.mesh, PartitionSpec())
        sampling = jax.eval_shape(lambda: Sampling.of(0.0, None, None))
        key = jax.eval_shape(lambda: jax.random.key(0))
        ends = jax.ShapeDtypeStruct((END_IDS,), jnp.int32)
        small = jax.tree.map(lambda leaf: leaf.update(sharding=replicated), (sampling, key, ends))
        return self.params, self.prompt(), *small

    def _array(self, dtype: Any, *shape: int) -> Any:
        """A ShapeDtypeStruct: a scalar is replicated, an array is sharded by sequence."""
        spec = PartitionSpec(self._batch_axes()) if shape else PartitionSpec()
        return jax.ShapeDtypeStruct(shape, dtype, sharding=NamedSharding(self.mesh, spec))

    def _batch_axes(self) -> Any:
        # As in the engine: a batch that the mesh axes do not divide is replicated.
        return None if self.batch_size % num_batch_shards(self.mesh) else BATCH_AXES


def make_inference_program(
    model: OwlConfig,
    params: Tree,
    mesh: Mesh,
    dtype: str,
    sequence: RowShape,
    batch_size: int,
    new_tokens: int,
    attention: str = "xla",
) -> InferenceProgram:
    """A program for weights of `dtype`: "bfloat16", "float32" or "int8" as in `owl_jax.load`.

    params: the parameter tree as ShapeDtypeStructs with shardings, of any dtype.
    Raises UserError if no prompt fits, or if the mesh cannot divide the heads.
    """
    capacity = round_up(new_tokens)
    if sequence.length <= capacity:
        raise UserError(
            f"--new_tokens={new_tokens}: rounded up to a multiple of {BUCKET}, {capacity} new "
            f"tokens leave no room for a prompt in a sequence of {sequence.length} tokens; give "
            "fewer, or increase config.data.sequence_length"
        )
    heads, tensor = model.llm.num_kv_heads, mesh.shape["tensor"]
    if heads % tensor:
        raise UserError(
            f"mesh axis tensor={tensor} does not divide the {heads} heads of the cache; expected a "
            "divisor"
        )
    stored_as = jnp.dtype("bfloat16" if dtype == "int8" else dtype)
    weights = jax.tree.map(lambda leaf: leaf.update(dtype=stored_as), params)
    if dtype == "int8":
        weights = abstract_int8(model, weights)
    compute = Compute(dtype=stored_as, attention=attention)
    return InferenceProgram(model, compute, mesh, weights, sequence, batch_size, capacity)
