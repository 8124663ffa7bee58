"""The key-value cache, with literal arrays."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from owl_jax.models.cache import (
    copy_row,
    empty_cache,
    past_of,
    write_all,
    write_row,
    write_tokens,
)

B, G, S, K = 3, 2, 4, 5


def keys_and_values(length, rows=B):
    """Two layers, stacked and unrolled: no two numbers are equal."""
    numbers = np.arange(1.0, 1 + 4 * rows * G * length * K).reshape(2, 2, rows, G, length, K)
    stacked = {"k": jnp.asarray(numbers[0]), "v": jnp.asarray(numbers[1])}
    return stacked, tuple({name: x[i] for name, x in stacked.items()} for i in range(2))


FORMS = pytest.mark.parametrize("form", [0, 1], ids=["stacked", "unrolled"])


def compare(cache, expected):
    assert jax.tree.structure(cache) == jax.tree.structure(expected)
    jax.tree.map(np.testing.assert_array_equal, cache, expected)


@FORMS
def test_a_cache_has_room_for_rows_of_any_length(form):
    new = keys_and_values(2, rows=1)[form]
    cache = empty_cache(new, B, S)
    shape = (B, G, S, K) if form else (2, B, G, S, K)
    assert [leaf.shape for leaf in jax.tree.leaves(cache)] == [shape] * len(jax.tree.leaves(new))
    assert not any(leaf.any() for leaf in jax.tree.leaves(cache))


@FORMS
def test_tokens_go_to_the_slots_of_their_rows(form):
    """In the cache's dtype; all else stays."""
    old = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), keys_and_values(S)[form])
    new = jax.tree.map(lambda leaf: 1000 + leaf, keys_and_values(1, rows=2)[form])
    written = write_tokens(old, new, jnp.asarray([2, 0]), jnp.asarray([3, 1]))
    expected = jax.tree.map(np.array, old)
    for to, source in zip(jax.tree.leaves(expected), jax.tree.leaves(new), strict=True):
        to[..., 2, :, 3, :], to[..., 0, :, 1, :] = (
            source[..., row, :, 0, :].astype(jnp.bfloat16) for row in (0, 1)
        )
    compare(written, expected)


@FORMS
def test_a_piece_goes_to_its_row(form):
    old, new = keys_and_values(S)[form], keys_and_values(2, rows=1)[form]
    written = write_row(old, new, jnp.asarray(1), jnp.asarray(2))
    expected = jax.tree.map(np.array, old)
    for to, source in zip(jax.tree.leaves(expected), jax.tree.leaves(new), strict=True):
        to[..., 1, :, 2:4, :] = source[..., 0, :, :, :]
    compare(written, expected)


@FORMS
def test_prompts_go_to_the_first_slots(form):
    old, new = keys_and_values(S)[form], keys_and_values(3)[form]
    expected = jax.tree.map(np.array, old)
    for to, source in zip(jax.tree.leaves(expected), jax.tree.leaves(new), strict=True):
        to[..., :3, :] = source
    compare(write_all(old, new), expected)


@FORMS
def test_a_row_is_copied(form):
    old = keys_and_values(S)[form]
    expected = jax.tree.map(np.array, old)
    for to in jax.tree.leaves(expected):
        to[..., 0, :, :, :] = to[..., 2, :, :, :]
    compare(copy_row(old, jnp.asarray(2), jnp.asarray(0)), expected)


@FORMS
def test_a_layer_reads_its_part(form):
    cache = keys_and_values(S)[form]
    compare(past_of(cache, 1).read(), keys_and_values(S)[1][1])
    assert past_of(None, 1) is None
