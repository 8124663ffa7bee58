"""Builds the program of a config for a topology, with its model FLOPs and argument sizes."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from owl_jax.aot.topology import Topology
from owl_jax.data.batch import RowShape
from owl_jax.inference.inference_program import make_inference_program
from owl_jax.parallel.mesh import make_mesh
from owl_jax.parallel.sharding import LogicalRules, num_batch_shards
from owl_jax.training import config as settings
from owl_jax.training.flops import decode_flops, prefill_flops
from owl_jax.training.partition import split
from owl_jax.training.train_program import abstract_params, make_program

NAMES = ("train", "prefill", "decode")


@dataclass(frozen=True)
class Program:
    """A program to compile, from `open_program`. One run is one training,
    prefill or decode step on all devices.

    trace: returns the traced program, ready to lower.
    batch_size, sequence: sequences per run, and the shape of each.
    tokens: tokens per run; in decode, one per sequence.
    model_flops: per run over all devices (training/flops.py).
    arguments: bytes of each group of arguments on one device, without padding.
    read_once: for decode, the bytes that one device must read per token: the language model's
      weights and the cache.
    compute: dtypes, attention kernel and remat, as text for the report.
    """

    name: str
    mesh: Mesh
    trace: Callable[[], jax.stages.Traced]
    batch_size: int
    sequence: RowShape
    tokens: int
    model_flops: float
    arguments: dict[str, int]
    compute: str
    read_once: int | None = None

    @property
    def devices(self) -> np.ndarray:
        """The devices in the order of their ids in the compiled program."""
        return self.mesh.devices.reshape(-1)

    @property
    def batch_per_device(self) -> int:
        """Sequences on each device. If data * fsdp does not divide the batch, every device has all
        of it (inference/inference_program.py); training refuses such a batch."""
        shards = num_batch_shards(self.mesh)
        return self.batch_size if self.batch_size % shards else self.batch_size // shards


def open_program(
    config: ConfigDict,
    topology: Topology,
    name: str = "train",
    batch_per_device: int = 0,
    dtype: str = "bfloat16",
    new_tokens: int = 256,
) -> Program:
    """Makes the program `name`, one of NAMES; needs no devices, weights or data.

    Args:
      batch_per_device: sequences per device and micro-batch; overrides config.batch_size. With
        tensor=t, each group of t devices shares t times as many.
      dtype: of the weights in prefill and decode.
      new_tokens: room for generated tokens per sequence, in prefill and decode.

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
    return _inference(config, mesh, name, dtype, new_tokens)


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
        arguments={
            "frozen": bytes_on_a_device(frozen),
            "trainable": bytes_on_a_device(trainable),
            "optimizer": bytes_on_a_device(program.state().opt_state),
            "batch": bytes_on_a_device(program.batch()),
        },
        compute=f"{compute.dtype}, frozen {config.frozen_dtype}, attention {compute.attention}, "
        f"remat {compute.remat}, accumulate {config.gradient_accumulation_steps}",
    )


def _inference(config: ConfigDict, mesh: Mesh, name: str, dtype: str, new_tokens: int) -> Program:
    model, compute = settings.read_model(config), settings.read_compute(config)
    shapes = abstract_params(model, mesh, LogicalRules())
    program = make_inference_program(
        model,
        shapes,
        mesh,
        dtype,
        settings.row_shape(config, model),
        config.batch_size,
        new_tokens,
        compute.attention,
    )
    batch_size, sequence = program.batch_size, program.sequence
    weights = {"weights": bytes_on_a_device(program.params)}
    description = f"weights {dtype}, attention {compute.attention}"
    if name == "prefill":
        prompt = dataclasses.replace(sequence, length=sequence.length - program.capacity)
        return Program(
            name=name,
            mesh=mesh,
            trace=program.trace_prefill,
            batch_size=batch_size,
            sequence=prompt,
            tokens=batch_size * prompt.length,
            model_flops=batch_size * prefill_flops(model, shapes, prompt),
            arguments=weights | {"prompt": bytes_on_a_device(program.prompt())},
            compute=description,
        )
    state = program.state()
    cache = bytes_on_a_device(state.cache)
    return Program(
        name=name,
        mesh=mesh,
        trace=program.trace_decode,
        batch_size=batch_size,
        sequence=sequence,
        tokens=batch_size,
        model_flops=batch_size * decode_flops(model, shapes, sequence.length),
        arguments=weights | {"cache": cache, "state": bytes_on_a_device(state) - cache},
        compute=description,
        read_once=_decoder_bytes(program.params) + cache,
    )


def _decoder_bytes(params: Any) -> int:
    """Bytes of the weights that are read for each token. The embedding counts only if it is also
    the head: otherwise a token needs one row of it."""
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
