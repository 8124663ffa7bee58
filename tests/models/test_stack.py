"""Stacks of a tiny block: scanned, unrolled, and with each remat policy."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from owl_jax.errors import UserError
from owl_jax.models.remat import NAMES, named
from owl_jax.models.stack import apply_layers, restack, unstack

LENGTH, WIDTH = 3, 4
X = jnp.linspace(-1.0, 1.0, WIDTH)


class Block(nn.Module):
    """tanh(x W + offset + shared); also returns x as its output."""

    @nn.compact
    def __call__(self, x, past, shared, *, deterministic):
        assert deterministic
        offset = past.read()["k"]
        kernel = self.param("kernel", nn.initializers.normal(1.0), (WIDTH, WIDTH))
        return jnp.tanh(named("up", x @ kernel) + offset + shared), x


class Stack(nn.Module):
    scan: bool = True
    remat: str = "none"

    @nn.compact
    def __call__(self, x, cache, shared):
        return apply_layers(Block, LENGTH, x, cache, shared, scan=self.scan, remat=self.remat)


OFFSETS = jnp.arange(LENGTH, dtype=jnp.float32)
CACHE, UNROLLED_CACHE = {"k": OFFSETS}, tuple({"k": offset} for offset in OFFSETS)
SCANNED = Stack().init(jax.random.key(0), X, CACHE, 0.5)["params"]


def _loss(params, scan, remat):
    cache = CACHE if scan else UNROLLED_CACHE
    y, _ = Stack(scan, remat).apply({"params": params}, X, cache, 0.5)
    return jnp.sum(y * y)


def test_layers_are_applied_in_order():
    expected = X
    inputs = []
    for kernel, offset in zip(SCANNED["layers"]["kernel"], OFFSETS, strict=True):
        inputs.append(expected)
        expected = jnp.tanh(expected @ kernel + offset + 0.5)
    y, outputs = Stack().apply({"params": SCANNED}, X, CACHE, 0.5)
    np.testing.assert_allclose(y, expected, atol=1e-6)
    np.testing.assert_allclose(outputs, inputs, atol=1e-6)
    unrolled = {"params": unstack(SCANNED)}
    y, outputs = Stack(scan=False).apply(unrolled, X, UNROLLED_CACHE, 0.5)
    np.testing.assert_allclose(y, expected, atol=1e-6)
    np.testing.assert_allclose(outputs, inputs, atol=1e-6)


def test_layers_are_initialised_differently():
    first, second, third = SCANNED["layers"]["kernel"]
    assert np.abs(first - second).max() > 0.1
    assert np.abs(second - third).max() > 0.1


@pytest.mark.parametrize("scan", [True, False])
@pytest.mark.parametrize("remat", NAMES[1:])
def test_remat_changes_no_gradient(scan, remat):
    params = SCANNED if scan else unstack(SCANNED)
    expected = jax.grad(_loss)(params, scan, "none")
    gradient = jax.grad(_loss)(params, scan, remat)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-6), gradient, expected)


def test_full_remat_recomputes_the_layer():
    counts = {
        remat: str(jax.make_jaxpr(jax.grad(_loss), static_argnums=(1, 2))(SCANNED, True, remat))
        for remat in ("none", "minimal", "full")
    }
    tanh = {remat: text.count(" tanh ") for remat, text in counts.items()}
    matmuls = {remat: text.count("dot_general[") for remat, text in counts.items()}
    assert tanh["none"] < tanh["minimal"] == tanh["full"]
    assert matmuls["none"] == matmuls["minimal"] < matmuls["full"]


def test_unknown_policy_is_named():
    with pytest.raises(
        UserError, match="'some' is not a remat policy: expected one of none, dots, minimal, full"
    ):
        Stack(remat="some").init(jax.random.key(0), X, CACHE, 0.5)


def test_unstack_splits_each_stack():
    tree = {"a": {"layers": {"w": np.array([[1, 2], [3, 4]])}, "end": np.array([5])}}
    result = unstack(tree)
    assert result.keys() == {"a"}
    assert result["a"].keys() == {"layer_0", "layer_1", "end"}
    np.testing.assert_array_equal(result["a"]["layer_0"]["w"], [1, 2])
    np.testing.assert_array_equal(result["a"]["layer_1"]["w"], [3, 4])
    np.testing.assert_array_equal(result["a"]["end"], [5])


def test_restack_inverts_unstack():
    """Even if `layer_10` precedes `layer_2`."""
    tree = {"a": {"layers": {"w": jnp.arange(22).reshape(11, 2)}, "layer_norm": jnp.ones(1)}}
    result = restack(jax.tree.map(lambda x: x, unstack(tree)))
    assert jax.tree.structure(result) == jax.tree.structure(tree)
    jax.tree.map(np.testing.assert_array_equal, result, tree)


def test_restack_keeps_stacked_weights():
    tree = {"layer_0": {"w": 1}, "layer_1": {"w": 2}, "layers": {"b": 3}, "end": 4}
    assert restack(tree, list) == {"layers": {"w": [1, 2], "b": 3}, "end": 4}


def test_unstack_of_a_partly_stacked_tree():
    """As in a training step: frozen layers unstacked, trained ones stacked."""
    tree = {"layer_0": {"w": 1}, "layer_1": {"w": 2}, "layers": {"b": np.array([3, 4])}}
    assert unstack(tree) == {"layer_0": {"w": 1, "b": 3}, "layer_1": {"w": 2, "b": 4}}
