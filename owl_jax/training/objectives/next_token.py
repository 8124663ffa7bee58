"""The default objective: next-token prediction, the mean cross entropy of supervised tokens.

Letters: B sequences, L tokens.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax

from owl_jax.data.batch import Batch
from owl_jax.models.compute import Compute
from owl_jax.models.config import OwlConfig
from owl_jax.models.stack import unstack
from owl_jax.models.vlm import forward, gather_head, head, head_params
from owl_jax.training.objectives.cross_entropy import tiled_cross_entropy, tiled_token_losses
from owl_jax.training.objectives.objective import Metrics, Objective


def next_token(model: OwlConfig, compute: Compute) -> Objective:
    """Builds the objective: the sum of -log p(target) over supervised tokens, and their number."""

    def objective(
        params: Any, batch: Batch, rng: jax.Array | None
    ) -> tuple[jax.Array, jax.Array, Metrics]:
        total, tokens = summed_loss(model, compute, params, batch, rng)
        return total, tokens, {}

    return objective


def summed_loss(
    config: OwlConfig,
    compute: Compute,
    params: Any,
    batch: Batch,
    dropout_key: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Sum of -log p(target) of a batch's supervised tokens, and their number.

    params: the whole tree with stacked layers; if `compute` unrolls layers, some may be separate
      arrays, as from `TrainingProgram.arrange`.
    """
    return tiled_cross_entropy(*_head_and_hidden(config, compute, params, batch, dropout_key))


def losses_by_token(config: OwlConfig, compute: Compute, params: Any, batch: Batch) -> jax.Array:
    """-log p(target) of each supervised token, float32[B, L]; 0 for the others. Without dropout.

    For evaluation only; see `summed_loss` for the arguments.
    """
    return tiled_token_losses(*_head_and_hidden(config, compute, params, batch, None))


def _head_and_hidden(
    config: OwlConfig,
    compute: Compute,
    params: Any,
    batch: Batch,
    dropout_key: jax.Array | None,
) -> tuple[Any, ...]:
    """The arguments of the tiled loss functions."""
    if not compute.scan_layers:
        params = unstack(params)
    hidden = forward(
        config,
        compute,
        params,
        batch.input_ids,
        batch.positions,
        batch.segment_ids,
        batch.media_index,
        batch.images,
        batch.videos,
        dropout_key,
        logits=False,
    )
    return (
        partial(head, config, compute),
        partial(gather_head, compute),
        head_params(config, params),
        hidden,
        batch.targets,
        batch.loss_mask,
        compute.loss_tile,
    )
