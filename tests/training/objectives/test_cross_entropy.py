"""The loss tile by tile is the loss, and its gradient the gradient, in less memory."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small_step
from small_step import MODELS

from owl_jax.models.compute import Compute
from owl_jax.training.objectives.cross_entropy import cross_entropy, tiled_cross_entropy
from owl_jax.training.objectives.next_token import summed_loss

B, L, D, V = 3, 20, 8, 50


def arrays(dtype=np.float32):
    random = np.random.default_rng(0)
    weights = {"kernel": random.normal(size=(D, V)), "bias": random.normal(size=V)}
    weights = jax.tree.map(lambda x: x.astype(np.float32), weights)
    hidden = jnp.asarray(random.normal(size=(B, L, D)), dtype)
    mask = (random.random((B, L)) < 0.5).astype(np.float32)
    return weights, hidden, random.integers(0, V, (B, L)), mask


def head(weights, hidden):
    logits = hidden @ weights["kernel"].astype(hidden.dtype) + weights["bias"].astype(hidden.dtype)
    return logits.astype(jnp.float32)


def same(weights):
    return weights


def run(tile, weights, hidden, targets, mask, factor=1.0):
    def loss(weights, hidden):
        total, tokens = tiled_cross_entropy(head, same, weights, hidden, targets, mask, tile)
        return factor * total, tokens

    return jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True))(weights, hidden)


def assert_close(ours, expected, tolerance=1e-6):
    for x, y in zip(jax.tree.leaves(ours), jax.tree.leaves(expected), strict=True):
        assert x.dtype == y.dtype
        x, y = np.asarray(x, np.float32), np.asarray(y, np.float32)
        assert np.abs(x - y).max() <= tolerance * max(np.abs(y).max(), 1e-6)


@pytest.mark.parametrize("tile", [1, 5, 7, 13, 19])
@pytest.mark.parametrize("factor", [1.0, -0.3])
def test_value_and_gradient_are_those_of_the_whole(tile, factor):
    assert_close(run(tile, *arrays(), factor), run(0, *arrays(), factor))


def test_a_tile_of_the_whole_row_is_the_whole():
    whole, tiled = (str(jax.make_jaxpr(partial(run, n))(*arrays())) for n in (0, L))
    assert whole == tiled
    assert "scan" not in whole


def test_bfloat16_hidden_states_and_float32_weights():
    """The weights' gradients are added up in float32."""
    assert_close(run(5, *arrays(jnp.bfloat16)), run(0, *arrays(jnp.bfloat16)), 1e-2)


def test_the_loss_alone():
    weights, *rest = arrays()
    total, tokens = tiled_cross_entropy(head, same, weights, *rest, tile=6)
    expected = cross_entropy(head(weights, rest[0]), *rest[1:])
    np.testing.assert_allclose((total, tokens), expected, rtol=1e-6)


def test_no_product_is_computed_twice_nor_for_frozen_weights():
    weights, hidden, targets, mask = arrays()

    def products(arguments):
        def loss(weights, hidden):
            return tiled_cross_entropy(head, same, weights, hidden, targets, mask, 5)[0]

        jaxpr = jax.make_jaxpr(jax.grad(loss, arguments))(weights, hidden)
        return str(jaxpr).count("dot_general[")

    assert products(1) == 2  # logits, and the gradient of the hidden states
    assert products((0, 1)) == 3


@pytest.mark.parametrize("name", MODELS)
def test_the_models_loss(name):
    """LLaMA's head, and BLOOM's embedding, whose gradient comes from both of its ends."""
    config, params = MODELS[name], small_step.draw_params(MODELS[name])
    batch = small_step.make_batch(config, (1, 12, 1, 3))

    @partial(jax.jit, static_argnums=0)
    def compute(tile):
        def loss(llm):
            return summed_loss(config, Compute(loss_tile=tile), {**params, "llm": llm}, batch)

        return jax.value_and_grad(loss, has_aux=True)(params["llm"])

    expected, whole = compute(0)
    (total, tokens), gradients = compute(5)
    np.testing.assert_allclose((total, tokens), expected, rtol=1e-6)
    size = max(float(np.abs(g).max()) for g in jax.tree.leaves(whole))
    for ours, wanted in zip(jax.tree.leaves(gradients), jax.tree.leaves(whole), strict=True):
        np.testing.assert_allclose(ours, wanted, rtol=0, atol=1e-6 * size)


@pytest.mark.parametrize("arguments", [(1,), (0, 1)])
def test_the_logits_are_never_there_at_once(arguments):
    """A loss of 2 x 1,024 positions and 4,096 words: 34 MB of float32 logits."""
    shapes = ({"kernel": (64, 4096), "bias": (4096,)}, (2, 1024, 64), (2, 1024), (2, 1024))
    dtypes = ({"kernel": "float32", "bias": "float32"}, "float32", "int32", "float32")
    is_leaf = lambda x: isinstance(x, tuple) and isinstance(x[0], int)  # noqa: E731
    given = [
        jax.tree.map(jax.ShapeDtypeStruct, *pair, is_leaf=is_leaf)
        for pair in zip(shapes, dtypes, strict=True)
    ]

    def temporaries(tile):
        def loss(*given):
            return tiled_cross_entropy(head, same, *given, tile)[0]

        compiled = jax.jit(jax.value_and_grad(loss, arguments)).lower(*given).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    logits = 2 * 1024 * 4096 * 4
    assert temporaries(0) > 1.9 * logits
    assert temporaries(128) < 0.5 * logits
