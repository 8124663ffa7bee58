"""What a training step changes."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct


@struct.dataclass
class TrainState:
    """Everything that a checkpoint of a run holds, apart from the data iterator.

    step: int32[], steps taken, skipped ones included.
    params: the trainable part of the parameter tree, in master precision.
    opt_state: moments for those leaves only.
    skipped: int32[], steps that were skipped because a gradient was not finite.
    skipped_in_a_row: int32[], how many of them since the last good step.
    """

    step: jax.Array
    params: Any
    opt_state: Any
    skipped: jax.Array
    skipped_in_a_row: jax.Array


def new_state(params: Any, optimizer: optax.GradientTransformation) -> TrainState:
    """The state before the first step; a pure function, so `jax.eval_shape` gives its shapes."""
    step, skipped, in_a_row = (jnp.zeros((), jnp.int32) for _ in range(3))  # donated one by one
    return TrainState(step, params, optimizer.init(params), skipped, in_a_row)
