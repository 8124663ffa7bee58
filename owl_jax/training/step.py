"""The training step: (state, frozen, batch) -> (state, metrics), one pure function.

Letters: A micro-batches.

Gradients exist for the trainable part only: the loss is differentiated with respect to it, and the
frozen part is an argument of its own.
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
    """Builds the step.

    accumulate: micro-batches a step. The gradient is that of the whole batch's mean (the summed
      objective over its summed weight), whatever share of the weight each micro-batch has.

    A step whose loss or gradient is not finite changes neither weights nor moments and is counted.
    A batch of weight 0 has loss 0 and gradient 0.

    The step raises UserError, when it is traced, for a metric of the objective that has the name of
    one of the step's own.
    """

    def gradient(trainable: Any, frozen: Any, batch: Batch, key: jax.Array) -> tuple[Any, ...]:
        def loss(trainable: Any) -> tuple[jax.Array, tuple[jax.Array, Metrics]]:
            total, weight, metrics = objective(merge(trainable, frozen), batch, key)
            return total, (weight, metrics)

        (total, (weight, metrics)), grads = jax.value_and_grad(loss, has_aux=True)(trainable)
        return total, weight, grads, metrics

    def accumulated(trainable: Any, frozen: Any, batch: Batch, key: jax.Array) -> tuple[Any, ...]:
        # Row r goes to micro-batch r % A: on every device its own rows, nothing moves.
        def divide(x: jax.Array) -> jax.Array:
            rows, *rest = x.shape
            return jnp.moveaxis(x.reshape(rows // accumulate, accumulate, *rest), 1, 0)

        micro = jax.tree.map(divide, batch)

        def add(sums: Any, xs: tuple[Batch, jax.Array]) -> tuple[Any, Metrics]:
            *terms, metrics = gradient(trainable, frozen, *xs)
            return jax.tree.map(jnp.add, sums, tuple(terms)), metrics

        zero = jnp.zeros((), jnp.float32)
        start = (zero, zero, jax.tree.map(jnp.zeros_like, trainable))
        sums, metrics = jax.lax.scan(add, start, (micro, jax.random.split(key, accumulate)))
        return *sums, jax.tree.map(lambda terms: jnp.sum(terms, axis=0), metrics)

    def step(state: TrainState, frozen: Any, batch: Batch) -> tuple[TrainState, Metrics]:
        key = jax.random.fold_in(jax.random.key(seed), state.step)
        compute_gradient = gradient if accumulate == 1 else accumulated
        total, weight, grads, more = compute_gradient(state.params, frozen, batch, key)
        share = 1.0 / jnp.where(weight > 0, weight, 1.0)
        loss = total * share
        grads = jax.tree.map(lambda g: g * share.astype(g.dtype), grads)
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
                f"config.objective has metrics named as the step's own: {', '.join(taken)}; give "
                "them other names"
            )
        return new_state, metrics | {name: value * share for name, value in more.items()}

    return step
