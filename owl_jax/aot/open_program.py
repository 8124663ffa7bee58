"""The program that a config describes, for a topology: what is compiled, and what it is worth."""

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
    """What `open_program` gives.

    trace: traces the program.
    rows, row: of one run over all devices, and what a row has room for.
    tokens: positions that one run goes through: of a decode step, one a row.
    model_flops: of one run over all devices (training/flops.py).
    arguments: bytes that each group of arguments takes on one device, without padding.
    read_once: of decode, the bytes that a token cannot do without: the language model's weights and
      the cache, on one device.
    compute: how it is computed, in words.
    """

    name: str
    mesh: Mesh
    trace: Callable[[], jax.stages.Traced]
    rows: int
    row: RowShape
    tokens: int
    model_flops: float
    arguments: dict[str, int]
    compute: str
    read_once: int | None = None

    @property
    def devices(self) -> np.ndarray:
        """In the order of their ids in the compiled program."""
        return self.mesh.devices.reshape(-1)

    @property
    def rows_per_device(self) -> int:
        """How many of `rows` lie on each device: all of them if data and fsdp cannot divide them,
        as in inference/inference_program.py; training refuses that."""
        parts = num_batch_shards(self.mesh)
        return self.rows if self.rows % parts else self.rows // parts


def open_program(
    config: ConfigDict,
    topology: Topology,
    name: str = "train",
    batch_per_device: int = 0,
    dtype: str = "bfloat16",
    new_tokens: int = 256,
) -> Program:
    """Makes one of NAMES; needs neither devices nor weights nor data.

    Args:
      batch_per_device: rows at a time for each device, instead of what config.batch_size comes to;
        devices along a mesh axis tensor have theirs together.
      dtype: of the weights in prefill and decode.
      new_tokens: slots of a row that are not prompt, in prefill and decode.

    Raises UserError for a config that makes no program on this topology.
    """
    settings.check_values(config)
    mesh = make_mesh(**config.mesh, devices=topology.devices)
    if batch_per_device:
        config.batch_size = batch_per_device * mesh.size
        if name == "train":
            config.batch_size *= config.accumulate
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
        rows=program.rows,
        row=program.row,
        tokens=program.rows * program.row.length,
        model_flops=program.flops(),
        arguments={
            "frozen": bytes_on_a_device(frozen),
            "trainable": bytes_on_a_device(trainable),
            "optimizer": bytes_on_a_device(program.state().opt_state),
            "batch": bytes_on_a_device(program.batch()),
        },
        compute=f"{compute.dtype}, frozen {config.frozen_dtype}, attention {compute.attention}, "
        f"remat {compute.remat}, accumulate {config.accumulate}",
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
    rows, row = program.rows, program.row
    weights = {"weights": bytes_on_a_device(program.params)}
    words = f"weights {dtype}, attention {compute.attention}"
    if name == "prefill":
        prompt = dataclasses.replace(row, length=row.length - program.capacity)
        return Program(
            name=name,
            mesh=mesh,
            trace=program.trace_prefill,
            rows=rows,
            row=prompt,
            tokens=rows * prompt.length,
            model_flops=rows * prefill_flops(model, shapes, prompt),
            arguments=weights | {"prompt": bytes_on_a_device(program.prompt())},
            compute=words,
        )
    state = program.state()
    cache = bytes_on_a_device(state.cache)
    return Program(
        name=name,
        mesh=mesh,
        trace=program.trace_decode,
        rows=rows,
        row=row,
        tokens=rows,
        model_flops=rows * decode_flops(model, shapes, row.length),
        arguments=weights | {"cache": cache, "state": bytes_on_a_device(state) - cache},
        compute=words,
        read_once=_decoder_bytes(program.params) + cache,
    )


def _decoder_bytes(params: Any) -> int:
    """Weights that every token passes; of an embedding it takes a row, unless it is the head."""
    passed = {name: tree for name, tree in params.items() if name in ("llm", "lora")}
    total = bytes_on_a_device(passed)
    if "lm_head" in params["llm"]:
        total -= bytes_on_a_device(params["llm"]["embed_tokens"])
    return total


def bytes_on_a_device(tree: Any) -> int:
    """Of ShapeDtypeStructs with shardings, on the device that has most."""
    return sum(
        math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
        for leaf in jax.tree.leaves(tree)
    )
