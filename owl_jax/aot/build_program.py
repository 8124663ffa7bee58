"""Builds the program that a config describes, and counts its model FLOPs and argument bytes."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from ml_collections import ConfigDict

from owl_jax.aot.topology import Topology
from owl_jax.aot.work import FILL
from owl_jax.data.batch import SequenceShape
from owl_jax.errors import UserError
from owl_jax.inference import core
from owl_jax.inference.abstract import (
    abstract_prefilled,
    abstract_prompt,
    abstract_state,
    abstract_weights,
)
from owl_jax.inference.prompt import BUCKET, round_up
from owl_jax.models.compute import Compute
from owl_jax.parallel.mesh import make_mesh
from owl_jax.parallel.sharding import LogicalRules, num_batch_shards, on_mesh
from owl_jax.training import config as settings
from owl_jax.training.flops import decode_flops, prefill_flops
from owl_jax.training.partition import split
from owl_jax.training.train_program import abstract_params, make_program

NAMES = ("train", "prefill", "insert", "decode")


@dataclass(frozen=True)
class Program:
    """A program that is ready to compile, made by `build_program`. Each run performs one training,
    prefill, insert or decode step on all devices.

    trace: returns the traced program, ready to lower.
    batch_size, sequence: sequences per run, and the shape of each.
    tokens: tokens per run; in decode, one per sequence.
    model_flops: FLOPs per run, summed over all devices (training/flops.py).
    argument_bytes: bytes of each group of arguments on one device, without padding.
    read_once: for decode, the bytes that one device reads per step if it reads the language model's
      weights and the whole cache once.
    needed: the same, but with only the share of the cache that holds tokens (`FILL`).
    compute: dtypes, attention kernel and remat, as text for the report.
    """

    name: str
    mesh: Mesh
    trace: Callable[[], jax.stages.Traced]
    batch_size: int
    sequence: SequenceShape
    tokens: int
    model_flops: float
    argument_bytes: dict[str, int]
    compute: str
    read_once: int | None = None
    needed: int | None = None

    @property
    def devices(self) -> np.ndarray:
        """The devices in the order of their ids in the compiled program."""
        return self.mesh.devices.reshape(-1)

    @property
    def batch_per_device(self) -> int:
        """Sequences on each device. If data * fsdp does not divide the batch, every device has all
        of it (`on_mesh` in parallel/sharding.py); training refuses such a batch."""
        shards = num_batch_shards(self.mesh)
        return self.batch_size if self.batch_size % shards else self.batch_size // shards


def build_program(
    config: ConfigDict,
    topology: Topology,
    name: str = "train",
    batch_per_device: int = 0,
    dtype: str = "bfloat16",
    new_tokens: int = 256,
    cache_dtype: str = "auto",
) -> Program:
    """Makes the program `name`, one of NAMES; needs no devices, weights or data.

    Args:
      batch_per_device: sequences per device and micro-batch; overrides config.batch_size. With
        tensor=t, each group of t devices works on t * batch_per_device sequences together.
      dtype: the dtype of the weights in prefill and decode.
      new_tokens: room for generated tokens per sequence, in prefill and decode.
      cache_dtype: of keys and values in prefill, insert and decode (models/compute.py).

    Raises UserError if the config is invalid or cannot run on this topology.
    """
    settings.check_values(config)
    mesh = make_mesh(**config.mesh, devices=topology.devices)
    if batch_per_device:
        config.batch_size = batch_per_device * mesh.size
        if name == "train":
            config.batch_size *= config.gradient_accumulation_steps
    if name == "train":
        return _training(config, mesh)
    return _inference(config, mesh, name, dtype, new_tokens, cache_dtype)


def _training(config: ConfigDict, mesh: Mesh) -> Program:
    program = make_program(config, mesh)
    trainable, frozen = split(program.params, program.labels)
    compute = program.compute
    return Program(
        name="train",
        mesh=mesh,
        trace=program.trace,
        batch_size=program.rows,
        sequence=program.row,
        tokens=program.rows * program.row.length,
        model_flops=program.flops(),
        argument_bytes={
            "frozen": bytes_on_a_device(frozen),
            "trainable": bytes_on_a_device(trainable),
            "optimizer": bytes_on_a_device(program.state().opt_state),
            "batch": bytes_on_a_device(program.batch()),
        },
        compute=f"{compute.dtype}, frozen {config.frozen_dtype}, attention {compute.attention}, "
        f"remat {compute.remat}, accumulate {config.gradient_accumulation_steps}",
    )


def _inference(
    config: ConfigDict, mesh: Mesh, name: str, dtype: str, new_tokens: int, cache_dtype: str
) -> Program:
    """Builds the program that prefills a batch of prompts, inserts one prompt into the decoding
    state, or decodes one token for each sequence."""
    model, compute = settings.read_model(config), settings.read_compute(config)
    sequence, batch_size = settings.sequence_shape(config, model), config.batch_size
    capacity = round_up(new_tokens)
    if sequence.length <= capacity:
        raise UserError(
            f"--new_tokens={new_tokens}: this is rounded up to {capacity} (a multiple of {BUCKET}) "
            f"and leaves no room for a prompt in a sequence of {sequence.length} tokens; lower it, "
            "or increase config.data.sequence_length"
        )
    prompt_shape = dataclasses.replace(sequence, length=sequence.length - capacity)
    shapes = abstract_params(model, mesh, LogicalRules())
    weights = abstract_weights(model, shapes, mesh, dtype)
    stored_as = "bfloat16" if dtype == "int8" else dtype
    compute = Compute(
        dtype=jnp.dtype(stored_as), attention=compute.attention, cache_dtype=cache_dtype
    )
    replicated = partial(jax.ShapeDtypeStruct, sharding=NamedSharding(mesh, PartitionSpec()))
    scalar = replicated((), jnp.int32)
    weight_bytes = {"weights": bytes_on_a_device(weights)}

    def program(function: Any, *arguments: Any, rows: int = batch_size, **values: Any) -> Program:
        def trace() -> jax.stages.Traced:
            with on_mesh(mesh, rows):
                traced: jax.stages.Traced = function.trace(*arguments)
            return traced

        description = f"weights {dtype}, cache {cache_dtype}, attention {compute.attention}"
        return Program(name=name, mesh=mesh, trace=trace, compute=description, **values)

    if name == "prefill":
        prompt = abstract_prompt(mesh, batch_size, prompt_shape)
        return program(
            core.prefill,
            *(model, compute, weights, prompt),
            batch_size=batch_size,
            sequence=prompt_shape,
            tokens=batch_size * prompt_shape.length,
            model_flops=batch_size * prefill_flops(model, shapes, prompt_shape),
            argument_bytes=weight_bytes | {"prompt": bytes_on_a_device(prompt)},
        )
    state = abstract_state(model, compute, mesh, weights, batch_size, sequence.length)
    cache = bytes_on_a_device(state.cache)
    state_bytes = {"cache": cache, "state": bytes_on_a_device(state) - cache}
    if name == "insert":
        prompt = abstract_prompt(mesh, 1, prompt_shape)
        prefilled = abstract_prefilled(model, compute, mesh, weights, prompt)
        one_each = replicated((1,), jnp.int32)
        return program(
            core.insert,
            *(state, prefilled, one_each, one_each, one_each),
            batch_size=1,
            sequence=prompt_shape,
            tokens=prompt_shape.length,
            model_flops=0.0,
            argument_bytes=state_bytes | {"prompt": bytes_on_a_device(prefilled)},
        )
    read = _decoder_bytes(weights)
    return program(
        core.decode_steps,
        *(model, compute, weights, state, scalar),
        batch_size=batch_size,
        sequence=sequence,
        tokens=batch_size,
        model_flops=batch_size * decode_flops(model, shapes, round(FILL * sequence.length)),
        argument_bytes=weight_bytes | state_bytes,
        read_once=read + cache,
        needed=read + round(FILL * cache),
    )


def _decoder_bytes(params: Any) -> int:
    """Bytes of the weights that are read for each token. The embedding counts only if it is also
    the head: otherwise a token needs only one row of it."""
    read = {name: tree for name, tree in params.items() if name in ("llm", "lora")}
    total = bytes_on_a_device(read)
    if "lm_head" in params["llm"]:
        total -= bytes_on_a_device(params["llm"]["embed_tokens"])
    return total


def bytes_on_a_device(tree: Any) -> int:
    """Bytes of sharded ShapeDtypeStructs on one device."""
    return sum(
        math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
        for leaf in jax.tree.leaves(tree)
    )
