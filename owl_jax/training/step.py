"""The training step: (state, frozen, batch) -> (state, metrics), one pure function.

Letters: A micro-batches.

Gradients exist for the trainable part only: the loss is differentiated with respect to it, and the
frozen part is an argument of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax

from owl_jax.data.batch import Batch
from owl_jax.models.compute import Compute
from owl_jax.models.config import OwlConfig
from owl_jax.models.stack import unstack
from owl_jax.models.vlm import forward, gather_head, head, head_params
from owl_jax.training.loss import tiled_cross_entropy
from owl_jax.training.partition import merge
from owl_jax.training.state import TrainState

Metrics = dict[str, jax.Array]
Step = Callable[[TrainState, Any, Batch], tuple[TrainState, Metrics]]


def summed_loss(
    config: OwlConfig,
    compute: Compute,
    params: Any,
    batch: Batch,
    dropout_key: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Sum of -log p(target) of a batch's supervised positions, and their number.

    params: the whole tree, its layers stacked; or, if `compute` unrolls them, some or all apart, as
      `TrainingProgram.arrange` gives those that are frozen.
    """
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
    return tiled_cross_entropy(
        partial(head, config, compute),
        partial(gather_head, compute),
        head_params(config, params),
        hidden,
        batch.targets,
        batch.loss_mask,
        compute.loss_tile,
    )


def make_step(
    config: OwlConfig,
    compute: Compute,
    optimizer: optax.GradientTransformation,
    seed: int,
    accumulate: int = 1,
) -> Step:
    """Builds the step.

    accumulate: micro-batches a step. The gradient is that of the whole batch's mean over supervised
      tokens, whatever share of them each micro-batch has.

    A step whose loss or gradient is not finite changes neither weights nor moments and is counted.
    A batch without any supervised token has loss 0 and gradient 0.
    """

    def gradient(trainable: Any, frozen: Any, batch: Batch, key: jax.Array) -> tuple[Any, ...]:
        def loss(trainable: Any) -> tuple[jax.Array, jax.Array]:
            return summed_loss(config, compute, merge(trainable, frozen), batch, key)

        (total, tokens), grads = jax.value_and_grad(loss, has_aux=True)(trainable)
        return total, tokens, grads

    def accumulated(trainable: Any, frozen: Any, batch: Batch, key: jax.Array) -> tuple[Any, ...]:
        # Row r goes to micro-batch r % A: on every device its own rows, nothing moves.
        def divide(x: jax.Array) -> jax.Array:
            rows, *rest = x.shape
            return jnp.moveaxis(x.reshape(rows // accumulate, accumulate, *rest), 1, 0)

        micro = jax.tree.map(divide, batch)

        def add(sums: Any, xs: tuple[Batch, jax.Array]) -> tuple[Any, None]:
            return jax.tree.map(jnp.add, sums, gradient(trainable, frozen, *xs)), None

        zero = jnp.zeros((), jnp.float32)
        start = (zero, zero, jax.tree.map(jnp.zeros_like, trainable))
        sums, _ = jax.lax.scan(add, start, (micro, jax.random.split(key, accumulate)))
        return sums

    def step(state: TrainState, frozen: Any, batch: Batch) -> tuple[TrainState, Metrics]:
        key = jax.random.fold_in(jax.random.key(seed), state.step)
        compute_gradient = gradient if accumulate == 1 else accumulated
        total, tokens, grads = compute_gradient(state.params, frozen, batch, key)
        weight = 1.0 / jnp.maximum(tokens, 1.0)
        loss = total * weight
        grads = jax.tree.map(lambda g: g * weight.astype(g.dtype), grads)
        norm = optax.tree.norm(grads)
        finite = jnp.isfinite(loss) & jnp.isfinite(norm)

        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        keep = lambda new, old: jax.tree.map(lambda n, o: jnp.where(finite, n, o), new, old)  # noqa: E731
        bad = 1 - finite.astype(jnp.int32)
        new_state = TrainState(
            step=state.step + 1,
            params=keep(params, state.params),
            opt_state=keep(opt_state, state.opt_state),
            skipped=state.skipped + bad,
            skipped_in_a_row=(state.skipped_in_a_row + 1) * bad,
        )
        metrics = {
            "loss": loss,
            "grad_norm": norm,
            "supervised_tokens": tokens,
            "skipped": new_state.skipped,
            "skipped_in_a_row": new_state.skipped_in_a_row,
        }
        return new_state, metrics

    return step
