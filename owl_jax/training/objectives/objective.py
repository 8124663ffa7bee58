"""The signature of objectives, which is all that the training step knows about the loss.

`config.objective` is a function that builds one for a model, `(model, compute) -> Objective`,
called once before the step is traced.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax

from owl_jax.data.batch import Batch
from owl_jax.models.compute import Compute
from owl_jax.models.config import OwlConfig

Metrics = dict[str, jax.Array]

# (params, batch, rng) -> (sum, weight, metrics)
#
# params: the whole parameter tree.
# batch: the Batch of a step, or one of its micro-batches.
# rng: a key for dropout; None disables dropout.
# sum, weight: float32[]. Both are added up over all micro-batches and devices, and the step
#   minimises sum / weight: a sum over tokens and their number, or over pairs and their number.
# metrics: more float32[] sums to log; the step divides them by the weight, like the loss.
Objective = Callable[[Any, Batch, jax.Array | None], tuple[jax.Array, jax.Array, Metrics]]

MakeObjective = Callable[[OwlConfig, Compute], Objective]
