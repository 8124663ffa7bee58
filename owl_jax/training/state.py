"""What a training step changes."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jax.sharding import Mesh, NamedSharding, PartitionSpec


@struct.dataclass
class TrainState:
    """Everything that a checkpoint of a run holds, apart from the data iterator.

    step: int32[], steps taken, skipped ones included.
    params: the trainable part of the parameter tree, in master precision.
    opt_state: moments for those leaves only.
    skipped: int32[], steps that were skipped because a gradient was not finite.
    skipped_in_a_row: int32[], how many of them since the last good step.
    """

    step: Any
    params: Any
    opt_state: Any
    skipped: Any
    skipped_in_a_row: Any


def new_state(params: Any, optimizer: optax.GradientTransformation) -> TrainState:
    """The state before the first step; a pure function, so `jax.eval_shape` gives its shapes."""
    step, skipped, in_a_row = (jnp.zeros((), jnp.int32) for _ in range(3))  # donated one by one
    return TrainState(step, params, optimizer.init(params), skipped, in_a_row)


def state_shardings(
    params: Any, optimizer: optax.GradientTransformation, shardings: Any, mesh: Mesh
) -> TrainState:
    """Where each part of the state lies: moments where their parameters lie, the rest everywhere.

    params: the trainable tree; shapes are enough. shardings: the same tree of NamedShardings.
    """
    whole = NamedSharding(mesh, PartitionSpec())
    # Each recipe's moments have holes where the parameters of the other recipes are.
    is_hole = lambda leaf: isinstance(leaf, optax.MaskedNode)  # noqa: E731
    moments = optax.tree.map_params(
        optimizer,
        lambda leaf, sharding: leaf if is_hole(leaf) else sharding,
        jax.eval_shape(optimizer.init, params),
        shardings,
        transform_non_params=lambda _: whole,
        is_leaf=is_hole,
    )
    return TrainState(whole, shardings, moments, whole, whole)


def place_state(
    params: Any, optimizer: optax.GradientTransformation, shardings: Any, mesh: Mesh
) -> TrainState:
    """The state before the first step, on the mesh.

    params: the trainable tree; its arrays are donated, so that they exist once.
    shardings: the same tree of NamedShardings of `mesh`.
    """
    out = state_shardings(params, optimizer, shardings, mesh)
    make = jax.jit(partial(new_state, optimizer=optimizer), out_shardings=out, donate_argnums=0)
    return make(params)
