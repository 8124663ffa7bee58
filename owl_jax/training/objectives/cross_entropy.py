"""Cross entropy over the vocabulary, for whole sequences or tile by tile.

Letters: B sequences, L tokens, D width, V vocabulary, T tiles.

With a vocabulary of 32,000, float32 logits of 8,192 tokens take 1 GB, and so does their gradient.
`tiled_cross_entropy` keeps only one tile of each in memory. It also skips tiles without supervised
tokens, which hold about half of the tokens of instruction data.
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
    """Sum of -log p(target) over supervised tokens, and their number.

    float32[B, L, V], int32[B, L], float32[B, L] -> float32[], float32[]. Both are returned, instead
    of the mean, so that micro-batches can be weighted by their tokens.
    """
    return jnp.sum(token_losses(logits, targets) * loss_mask), jnp.sum(loss_mask)


def token_losses(logits: jax.Array, targets: jax.Array) -> jax.Array:
    """-log p(target) of each token, in nats: float32[B, L, V], int32[B, L] -> float32[B, L]."""
    logits = logits.astype(jnp.float32)
    chosen = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
    return jax.nn.logsumexp(logits, axis=-1) - chosen


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

    The forward pass computes the gradient together with the logits, so that logits are computed
    once; the backward pass only scales it. Only differentiated weights get a gradient. Supervised
    tokens of each sequence are moved to the front, and tiles without any are skipped, so that
    non-finite values in them do not matter.

    Args:
      gather: applied to the weights once, before the loop.
      weights: the possibly trained weights that `head` reads, and nothing else.
      hidden: [B, L, D].
      loss_mask: a constant, like the targets: it gets no gradient.
      tile: tokens of each sequence at a time; 0, or L or more, for all at once.
    """
    L = hidden.shape[1]
    if not 0 < tile < L:
        return cross_entropy(head(weights, hidden), targets, loss_mask)
    tiles = partial(_tiles, order=_supervised_first(loss_mask), number=math.ceil(L / tile))
    total = _total(head, gather, weights, tiles(hidden), tiles(targets), tiles(loss_mask))
    return total, jnp.sum(loss_mask)


def tiled_token_losses(
    head: Head,
    gather: Gather,
    weights: Weights,
    hidden: jax.Array,
    targets: jax.Array,
    loss_mask: jax.Array,
    tile: int,
) -> jax.Array:
    """The loss of each token, float32[B, L]; 0 where loss_mask is 0.

    Takes the arguments of `tiled_cross_entropy`. For evaluation only: differentiating it would use
    too much memory.
    """
    L = hidden.shape[1]
    if not 0 < tile < L:
        losses = token_losses(head(weights, hidden), targets)
        return jnp.where(loss_mask != 0, losses, 0)
    order = _supervised_first(loss_mask)
    tiles = partial(_tiles, order=order, number=math.ceil(L / tile))
    weights = gather(weights)

    def add(_: None, hidden: jax.Array, targets: jax.Array, mask: jax.Array) -> tuple[None, Any]:
        return None, jnp.where(mask != 0, token_losses(head(weights, hidden), targets), 0)

    def skip(_: None, hidden: jax.Array, targets: jax.Array, mask: jax.Array) -> tuple[None, Any]:
        return None, jnp.zeros(mask.shape, jnp.float32)

    _, losses = _scan_supervised(add, skip, None, (tiles(hidden), tiles(targets), tiles(loss_mask)))
    losses = jnp.moveaxis(losses, 0, 1).reshape(len(loss_mask), -1)[:, :L]
    return _reorder(losses, jnp.argsort(order, axis=1))


def _supervised_first(loss_mask: jax.Array) -> jax.Array:
    """int32[B, L]: an order of each sequence with its supervised tokens first."""
    return jnp.argsort(loss_mask == 0, axis=1, stable=True)


def _tiles(x: jax.Array, order: jax.Array, number: int) -> jax.Array:
    """[B, L, ...] -> [T, B, ceil(L / T), ...], zero-padded."""
    x = _reorder(x, order)
    L = x.shape[1]
    size = math.ceil(L / number)
    x = jnp.pad(x, [(0, 0), (0, number * size - L)] + [(0, 0)] * (x.ndim - 2))
    return jnp.moveaxis(x.reshape(len(x), number, size, *x.shape[2:]), 1, 0)


@jax.custom_vjp
def _reorder(x: jax.Array, order: jax.Array) -> jax.Array:
    """[B, L, ...] in the order int32[B, L]. The gradient gathers, where JAX's would scatter."""
    return jnp.take_along_axis(x, jnp.expand_dims(order, range(2, x.ndim)), axis=1)


def _reorder_back(order: jax.Array, gradient: jax.Array) -> tuple[jax.Array, None]:
    return _reorder(gradient, jnp.argsort(order, axis=1)), None


_reorder.defvjp(lambda x, order: (_reorder(x, order), order), _reorder_back)


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

    def add(total: jax.Array, hidden: jax.Array, *rest: jax.Array) -> tuple[jax.Array, None]:
        return total + cross_entropy(head(weights, hidden), *rest)[0], None

    def skip(total: jax.Array, *tile: jax.Array) -> tuple[jax.Array, None]:
        return total, None

    total, _ = _scan_supervised(add, skip, jnp.zeros(()), (hidden, targets, loss_mask))
    return total


def _total_and_gradients(
    head: Head, gather: Gather, weights: Weights, hidden: Any, targets: Any, loss_mask: Any
) -> tuple[jax.Array, tuple[Weights, jax.Array]]:
    # With symbolic zeros, `perturbed` of each leaf says whether it is differentiated.
    is_leaf = lambda x: hasattr(x, "perturbed")  # noqa: E731
    leaves, structure = jax.tree.flatten(weights, is_leaf=is_leaf)
    tree = partial(jax.tree.unflatten, structure)
    gathered = jax.tree.leaves(gather(tree([leaf.value for leaf in leaves])))
    trained = {i: gathered[i] for i, leaf in enumerate(leaves) if leaf.perturbed}

    def loss(trained: dict[int, jax.Array], hidden: jax.Array, *rest: jax.Array) -> jax.Array:
        whole = [trained.get(i, x) for i, x in enumerate(gathered)]
        return cross_entropy(head(tree(whole), hidden), *rest)[0]

    def add(sums: Any, *tile: jax.Array) -> tuple[Any, jax.Array]:
        value, (of_weights, of_hidden) = jax.value_and_grad(loss, (0, 1))(trained, *tile)
        of_weights = jax.tree.map(lambda g: g.astype(jnp.float32), of_weights)
        return jax.tree.map(jnp.add, sums, (value, of_weights)), of_hidden

    def skip(sums: Any, hidden: jax.Array, *rest: jax.Array) -> tuple[Any, jax.Array]:
        return sums, jnp.zeros_like(hidden)

    start = jnp.zeros(()), jax.tree.map(lambda x: jnp.zeros(x.shape, jnp.float32), trained)
    tiles = hidden.value, targets.value, loss_mask.value
    (total, sums), of_hidden = _scan_supervised(add, skip, start, tiles)
    of_weights = [
        sums[i].astype(leaf.value.dtype) if i in sums else None for i, leaf in enumerate(leaves)
    ]
    return total, (tree(of_weights), of_hidden)


def _scan_supervised(
    add: Callable[..., tuple[Any, Any]],
    skip: Callable[..., tuple[Any, Any]],
    start: Any,
    tiles: tuple[jax.Array, jax.Array, jax.Array],
) -> tuple[Any, Any]:
    """Scans `add(sums, *tile)`, or `skip` for tiles whose loss mask, the last array, is zero."""

    def step(sums: Any, xs: tuple[jax.Array, Any]) -> tuple[Any, Any]:
        is_supervised, tile = xs
        result: tuple[Any, Any] = jax.lax.cond(is_supervised, add, skip, sums, *tile)
        return result

    # Outside the loop, since it communicates between devices.
    supervised = jnp.any(tiles[-1] != 0, axis=(1, 2))
    return jax.lax.scan(step, start, (supervised, tiles))


def _scale(
    head: Head, gather: Gather, gradients: tuple[Weights, jax.Array], factor: jax.Array
) -> tuple[Any, ...]:
    scaled = jax.tree.map(lambda g: (g * factor).astype(g.dtype), gradients)
    return *scaled, None, None


_total.defvjp(_total_and_gradients, _scale, symbolic_zeros=True)
