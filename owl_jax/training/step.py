"""The training step: (state, frozen, batch) -> (state, metrics), one pure function.

Letters: A micro-batches.

Frozen parameters are a separate argument; only the trainable ones are differentiated.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from owl_jax.data.batch import Batch
from owl_jax.errors import UserError
from owl_jax.training.objectives.objective import Metrics, Objective
from owl_jax.training.partition import merge
from owl_jax.training.state import TrainState

Step = Callable[[TrainState, Any, Batch], tuple[TrainState, Metrics]]


def make_step(
    objective: Objective,
    optimizer: optax.GradientTransformation,
    seed: int,
    accumulate: int = 1,
) -> Step:
    """Builds the training step.

    accumulate: micro-batches per step. The gradient equals that of one large batch: the summed
      objective divided by the summed weight.

    A step with a non-finite loss or gradient leaves weights and moments unchanged and counts as
    skipped. A batch of weight 0 has loss 0 and gradient 0.

    Tracing the step raises UserError if the objective uses the name of one of the step's metrics.
    """

    def gradient(trainable: Any, frozen: Any, batch: Batch, key: jax.Array) -> tuple[Any, ...]:
        def loss(trainable: Any) -> tuple[jax.Array, tuple[jax.Array, Metrics]]:
            total, weight, metrics = objective(merge(trainable, frozen), batch, key)
            return total, (weight, metrics)

        (total, (weight, metrics)), grads = jax.value_and_grad(loss, has_aux=True)(trainable)
        return total, weight, grads, metrics

    def accumulated(trainable: Any, frozen: Any, batch: Batch, key: jax.Array) -> tuple[Any, ...]:
        # Sequence i goes to micro-batch i % A, so that every sequence stays on its device.
        def split(x: jax.Array) -> jax.Array:
            B, *rest = x.shape
            return jnp.moveaxis(x.reshape(B // accumulate, accumulate, *rest), 1, 0)

        micro_batches = jax.tree.map(split, batch)

        def add(sums: Any, xs: tuple[Batch, jax.Array]) -> tuple[Any, Metrics]:
            *terms, metrics = gradient(trainable, frozen, *xs)
            return jax.tree.map(jnp.add, sums, tuple(terms)), metrics

        zero = jnp.zeros((), jnp.float32)
        start = (zero, zero, jax.tree.map(jnp.zeros_like, trainable))
        keys = jax.random.split(key, accumulate)
        sums, metrics = jax.lax.scan(add, start, (micro_batches, keys))
        return *sums, jax.tree.map(lambda terms: jnp.sum(terms, axis=0), metrics)

    def step(state: TrainState, frozen: Any, batch: Batch) -> tuple[TrainState, Metrics]:
        key = jax.random.fold_in(jax.random.key(seed), state.step)
        compute_gradient = gradient if accumulate == 1 else accumulated
        total, weight, grads, more = compute_gradient(state.params, frozen, batch, key)
        scale = 1.0 / jnp.where(weight > 0, weight, 1.0)
        loss = total * scale
        grads = jax.tree.map(lambda g: g * scale.astype(g.dtype), grads)
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
            "supervised_tokens": jnp.sum(batch.loss_mask),
            "skipped": new_state.skipped,
            "skipped_in_a_row": new_state.skipped_in_a_row,
        }
        if taken := sorted(metrics.keys() & more.keys()):
            raise UserError(
                f"config.objective uses metric names of the training step: {', '.join(taken)}; "
                "rename them"
            )
        return new_state, metrics | {name: value * scale for name, value in more.items()}

    return step
