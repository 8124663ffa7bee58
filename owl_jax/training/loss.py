"""The loss over the vocabulary, for the whole row at once or tile by tile.

Letters: B rows, L positions, D width, V vocabulary.

At 32,000 words the logits of 8,192 positions are 1 GB of float32, and their gradient is as much
again. `tiled_cross_entropy` never has more than a tile of either.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

Weights = Any
Head = Callable[[Weights, jax.Array], jax.Array]  # (weights, [B, L, D]) -> float32[B, L, V]
Gather = Callable[[Weights], Weights]


def cross_entropy(
    logits: jax.Array, targets: jax.Array, loss_mask: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Sum of -log p(target) over supervised positions, and their number.

    float32[B, L, V], int32[B, L], float32[B, L] -> float32[], float32[]. The mean is their
    quotient; kept apart so that micro-batches can be weighted by their tokens.
    """
    logits = logits.astype(jnp.float32)
    chosen = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
    losses = jax.nn.logsumexp(logits, axis=-1) - chosen
    return jnp.sum(losses * loss_mask), jnp.sum(loss_mask)


def tiled_cross_entropy(
    head: Head,
    gather: Gather,
    weights: Weights,
    hidden: jax.Array,
    targets: jax.Array,
    loss_mask: jax.Array,
    tile: int,
) -> tuple[jax.Array, jax.Array]:
    """`cross_entropy` of `head(weights, hidden)`.

    The gradient is computed where the logits are, in the forward pass, so that no logits are
    computed twice; the backward pass only scales it. Only weights that are differentiated get one.

    Args:
      gather: what to do to the weights once, before the loop.
      weights: all that `head` reads and that may be trained, and nothing else.
      hidden: [B, L, D].
      tile: positions of each row at a time; 0, or L and more, for all at once.
    """
    L = hidden.shape[1]
    if not 0 < tile < L:
        return cross_entropy(head(weights, hidden), targets, loss_mask)
    number = math.ceil(L / tile)

    def tiles(x: jax.Array) -> jax.Array:
        """[B, L, ...] -> [number, B, L / number, ...]; what fills up the last is masked."""
        size = math.ceil(L / number)
        x = jnp.pad(x, [(0, 0), (0, number * size - L)] + [(0, 0)] * (x.ndim - 2))
        return jnp.moveaxis(x.reshape(len(x), number, size, *x.shape[2:]), 1, 0)

    total = _total(head, gather, weights, tiles(hidden), tiles(targets), tiles(loss_mask))
    return total, jnp.sum(loss_mask)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _total(
    head: Head,
    gather: Gather,
    weights: Weights,
    hidden: jax.Array,
    targets: jax.Array,
    loss_mask: jax.Array,
) -> jax.Array:
    """The summed loss of tiles stacked on axis 0, differentiable in `weights` and `hidden`."""
    weights = gather(weights)

    def add(total: jax.Array, tile: tuple[jax.Array, ...]) -> tuple[jax.Array, None]:
        hidden, targets, loss_mask = tile
        return total + cross_entropy(head(weights, hidden), targets, loss_mask)[0], None

    total, _ = jax.lax.scan(add, jnp.zeros(()), (hidden, targets, loss_mask))
    return total


def _total_and_gradients(
    head: Head, gather: Gather, weights: Weights, hidden: Any, targets: Any, loss_mask: Any
) -> tuple[jax.Array, tuple[Weights, jax.Array]]:
    # With symbolic zeros each leaf tells whether it is differentiated.
    is_leaf = lambda x: hasattr(x, "perturbed")  # noqa: E731
    leaves, structure = jax.tree.flatten(weights, is_leaf=is_leaf)
    tree = partial(jax.tree.unflatten, structure)
    gathered = jax.tree.leaves(gather(tree([leaf.value for leaf in leaves])))
    trained = {i: gathered[i] for i, leaf in enumerate(leaves) if leaf.perturbed}

    def loss(trained: dict[int, jax.Array], hidden: jax.Array, *rest: jax.Array) -> jax.Array:
        whole = [trained.get(i, x) for i, x in enumerate(gathered)]
        return cross_entropy(head(tree(whole), hidden), *rest)[0]

    def add(sums: Any, tile: tuple[jax.Array, ...]) -> tuple[Any, jax.Array]:
        value, (of_weights, of_hidden) = jax.value_and_grad(loss, (0, 1))(trained, *tile)
        wide = jax.tree.map(lambda g: g.astype(jnp.float32), of_weights)
        return jax.tree.map(jnp.add, sums, (value, wide)), of_hidden

    start = jnp.zeros(()), jax.tree.map(lambda x: jnp.zeros(x.shape, jnp.float32), trained)
    tiles = hidden.value, targets.value, loss_mask.value
    (total, sums), of_hidden = jax.lax.scan(add, start, tiles)
    of_weights = [
        sums[i].astype(leaf.value.dtype) if i in sums else None for i, leaf in enumerate(leaves)
    ]
    return total, (tree(of_weights), of_hidden)


def _scale(
    head: Head, gather: Gather, gradients: tuple[Weights, jax.Array], factor: jax.Array
) -> tuple[Any, ...]:
    scaled = jax.tree.map(lambda g: (g * factor).astype(g.dtype), gradients)
    return *scaled, None, None


_total.defvjp(_total_and_gradients, _scale, symbolic_zeros=True)
