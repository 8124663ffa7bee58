"""Builds a config's training program: the step, and the shapes, dtypes and shardings of its
arguments.

The training loop runs it with real arrays (training/loop.py); aot/ compiles it for a TPU without
having one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from flax.traverse_util import flatten_dict, unflatten_dict
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from ml_collections import ConfigDict

from owl_jax.checkpoint.int8 import abstract_int8
from owl_jax.data.batch import Batch, SequenceShape
from owl_jax.errors import UserError
from owl_jax.models import vlm
from owl_jax.models.compute import Compute
from owl_jax.models.config import OwlConfig
from owl_jax.models.stack import restack, unstack
from owl_jax.parallel.sharding import (
    BATCH_AXES,
    LogicalRules,
    batch_sharding,
    num_batch_shards,
    param_shardings,
)
from owl_jax.training import config as settings
from owl_jax.training.extensions import read_objective
from owl_jax.training.flops import training_flops
from owl_jax.training.optimizer import Recipe, make_optimizer
from owl_jax.training.partition import FROZEN, assign, split
from owl_jax.training.state import TrainState, new_state, state_shardings
from owl_jax.training.step import make_step

Tree = dict[str, Any]


@dataclass(frozen=True)
class TrainingProgram:
    """The training program of a config on a mesh.

    params: the whole parameter tree as `jax.ShapeDtypeStruct`s with stored dtype and sharding.
      Layers are always stacked.
    labels: the same tree with each leaf's recipe, or "frozen".
    row: the shape of a packed sequence.
    rows: the number of sequences in a step, over all devices.
    step: (state, frozen, batch) -> (state, metrics), jitted; donates the state.
    """

    model: OwlConfig
    compute: Compute
    mesh: Mesh
    logical: LogicalRules
    params: Tree
    labels: Tree
    recipes: Mapping[str, Recipe]
    optimizer: optax.GradientTransformation
    row: SequenceShape
    rows: int
    step: Any

    @contextmanager
    def active(self) -> Iterator[None]:
        """Sets the mesh and the logical axis rules, for tracing and running the step."""
        with jax.set_mesh(self.mesh), nn.logical_axis_rules(self.logical.flax_rules()):
            yield

    def state(self) -> TrainState:
        """The state as ShapeDtypeStructs."""
        trainable, _ = split(self.params, self.labels)
        shardings = jax.tree.map(lambda leaf: leaf.sharding, trainable)
        return jax.tree.map(
            lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
            jax.eval_shape(partial(new_state, optimizer=self.optimizer), trainable),
            state_shardings(trainable, self.optimizer, shardings, self.mesh),
        )

    def frozen(self) -> Tree:
        """The frozen weights in the form of `arrange`, as ShapeDtypeStructs."""
        return self.arrange(split(self.params, self.labels)[1])

    def arrange(self, frozen: Tree) -> Tree:
        """Converts the frozen part of a tree like `params` to the form that the step takes.

        A step with unrolled layers takes separate arrays for each layer, so that it does not slice
        the stack every time. Each stacked array is deleted as soon as it is split.
        """
        return frozen if self.compute.scan_layers else unstack(frozen, _split_layers)

    def stacked(self, frozen: Tree) -> Tree:
        """Inverts `arrange`. Layers' arrays are deleted as soon as they are stacked."""
        return frozen if self.compute.scan_layers else restack(frozen, _stack_layers)

    def batch(self) -> Batch:
        """A batch as ShapeDtypeStructs (data/batch.py)."""
        B, L, S = self.rows, self.row.length, self.row.image_size
        sharding = batch_sharding(self.mesh)

        def array(dtype: Any, *shape: int) -> jax.ShapeDtypeStruct:
            return jax.ShapeDtypeStruct((B, *shape), dtype, sharding=sharding)

        return Batch(
            input_ids=array(jnp.int32, L),
            targets=array(jnp.int32, L),
            loss_mask=array(jnp.float32, L),
            positions=array(jnp.int32, L),
            segment_ids=array(jnp.int32, L),
            media_index=array(jnp.int32, L),
            images=array(jnp.uint8, self.row.image_slots, S, S, 3),
            videos=array(jnp.uint8, self.row.video_slots, self.row.frames, S, S, 3),
        )

    def trace(self) -> jax.stages.Traced:
        """Traces the step from shapes alone; needs neither arrays nor the devices."""
        arguments = self.state(), self.frozen(), self.batch()
        with self.active():
            traced: jax.stages.Traced = self.step.trace(*arguments)
        return traced

    def flops(self) -> float:
        """Model FLOPs of a step over all devices (training/flops.py)."""
        return self.rows * training_flops(self.model, self.params, self.labels, self.row)


def make_program(config: ConfigDict, mesh: Mesh) -> TrainingProgram:
    """Builds the program of `config` for the devices of `mesh`.

    Raises UserError for invalid values, and for a batch size that the mesh cannot divide.
    """
    model, compute = settings.read_model(config), settings.read_compute(config)
    rules, recipes = settings.read_recipes(config)
    logical = LogicalRules()
    params = abstract_params(model, mesh, logical)
    labels = assign(params, rules, set(recipes))
    # int8 applies to the language model's projections only (checkpoint/int8.py).
    frozen_dtype = "bfloat16" if config.frozen_dtype == settings.INT8 else config.frozen_dtype
    dtypes = {FROZEN: frozen_dtype} | {name: r.dtype for name, r in recipes.items()}
    params = jax.tree.map(
        lambda leaf, label: leaf.update(dtype=jnp.dtype(dtypes[label])), params, labels
    )
    if config.frozen_dtype == settings.INT8:
        params, labels = _quantized(model, params, labels)
    optimizer = make_optimizer(
        recipes, split(labels, labels)[0], config.steps, config.clip_norm or None
    )
    objective = read_objective(config)(model, compute)
    step = make_step(objective, optimizer, config.seed, config.gradient_accumulation_steps)
    _check_rows(config, mesh)
    return TrainingProgram(
        model,
        compute,
        mesh,
        logical,
        params,
        labels,
        recipes,
        optimizer,
        settings.sequence_shape(config, model),
        config.batch_size,
        jax.jit(step, donate_argnums=0),
    )


def abstract_params(model: OwlConfig, mesh: Mesh, logical: LogicalRules) -> Tree:
    """The parameter tree as float32 ShapeDtypeStructs with their shardings."""
    boxed = vlm.abstract_params(model)
    params: Tree = jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        nn.meta.unbox(boxed),
        param_shardings(boxed, mesh, logical),
    )
    return params


def _split_layers(stacked: Any) -> list[Any]:
    """Splits a stacked array or ShapeDtypeStruct into one per layer, with the same sharding."""
    sharding = NamedSharding(stacked.sharding.mesh, PartitionSpec(*stacked.sharding.spec[1:]))
    if isinstance(stacked, jax.ShapeDtypeStruct):
        return [stacked.update(shape=stacked.shape[1:], sharding=sharding)] * len(stacked)
    layers: list[Any] = jax.jit(list, out_shardings=sharding)(stacked)
    stacked.delete()
    return layers


def _stack_layers(layers: Sequence[Any]) -> jax.Array:
    """Stacks the layers' arrays, with the same sharding."""
    layer_sharding = layers[0].sharding
    sharding = NamedSharding(layer_sharding.mesh, PartitionSpec(None, *layer_sharding.spec))
    stacked: jax.Array = jax.jit(jnp.stack, out_shardings=sharding)(layers)
    for layer in layers:
        layer.delete()
    return stacked


def _check_rows(config: ConfigDict, mesh: Mesh) -> None:
    shards, steps = num_batch_shards(mesh), config.gradient_accumulation_steps
    if config.batch_size % (shards * steps):
        raise UserError(
            f"config.batch_size={config.batch_size} cannot be divided among {shards} devices (mesh "
            f"axes {' and '.join(BATCH_AXES)}) times config.gradient_accumulation_steps={steps}; "
            f"make it a multiple of {shards * steps}"
        )


def _quantized(model: OwlConfig, params: Tree, labels: Tree) -> tuple[Tree, Tree]:
    """(params, labels) with an int8 language model. Raises UserError if it is not frozen."""
    if trained := {label for label in jax.tree.leaves(labels["llm"]) if label != FROZEN}:
        raise UserError(
            f"config.frozen_dtype={settings.INT8} needs a frozen language model, but config.rules "
            f"train it (recipe {', '.join(sorted(trained))}); use bfloat16"
        )
    params = abstract_int8(model, params)
    named = flatten_dict(labels)
    named |= {path: FROZEN for path in flatten_dict(params) if path not in named}
    return params, unflatten_dict(named)
