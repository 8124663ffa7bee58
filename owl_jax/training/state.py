"""The training state."""

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
    """The contents of a checkpoint, apart from the data iterator.

    step: int32[], steps taken, including skipped ones.
    params: the trainable parameters, in master precision.
    opt_state: the optimizer's state, with their moments.
    skipped: int32[], steps skipped because the loss or gradient was not finite.
    skipped_in_a_row: int32[], steps skipped since the last good one.
    """

    step: Any
    params: Any
    opt_state: Any
    skipped: Any
    skipped_in_a_row: Any


def new_state(params: Any, optimizer: optax.GradientTransformation) -> TrainState:
    """The state before the first step; a pure function, so `jax.eval_shape` gives its shapes."""
    # Three arrays, since a buffer can be donated only once.
    step, skipped, in_a_row = (jnp.zeros((), jnp.int32) for _ in range(3))
    return TrainState(step, params, optimizer.init(params), skipped, in_a_row)


def state_shardings(
    params: Any, optimizer: optax.GradientTransformation, shardings: Any, mesh: Mesh
) -> TrainState:
    """Shardings of the state: moments like their parameters, everything else replicated.

    params: the trainable tree; shapes are enough. shardings: the same tree of NamedShardings.
    """
    replicated = NamedSharding(mesh, PartitionSpec())
    # Each recipe's moments have holes for the parameters of the other recipes.
    is_hole = lambda leaf: isinstance(leaf, optax.MaskedNode)  # noqa: E731
    moments = optax.tree.map_params(
        optimizer,
        lambda leaf, sharding: leaf if is_hole(leaf) else sharding,
        jax.eval_shape(optimizer.init, params),
        shardings,
        transform_non_params=lambda _: replicated,
        is_leaf=is_hole,
    )
    return TrainState(replicated, shardings, moments, replicated, replicated)


def place_state(
    params: Any, optimizer: optax.GradientTransformation, shardings: Any, mesh: Mesh
) -> TrainState:
    """The state before the first step, on the mesh.

    params: the trainable tree; its arrays are donated.
    shardings: the same tree of NamedShardings of `mesh`.
    """
    out = state_shardings(params, optimizer, shardings, mesh)
    make = jax.jit(partial(new_state, optimizer=optimizer), out_shardings=out, donate_argnums=0)
    return make(params)
