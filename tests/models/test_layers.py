"""Building blocks, with literal arrays."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from owl_jax.models.layers import Embedding, LayerNorm, Projection, RMSNorm, bloom_gelu, quick_gelu


def test_layer_norm():
    params = {"scale": jnp.asarray([1.0, 1.0, 2.0]), "bias": jnp.asarray([0.0, 5.0, 0.0])}
    y = LayerNorm(eps=0.5).apply({"params": params}, jnp.asarray([1.0, 2.0, 6.0]))
    # Mean 3, variance 14 / 3.
    root = (14 / 3 + 0.5) ** 0.5
    np.testing.assert_allclose(y, [-2 / root, 5 - 1 / root, 6 / root], rtol=1e-6)


def test_rms_norm():
    params = {"scale": jnp.asarray([1.0, 3.0])}
    y = RMSNorm(eps=0.5).apply({"params": params}, jnp.asarray([3.0, 4.0]))
    np.testing.assert_allclose(y, [3 / 13**0.5, 12 / 13**0.5], rtol=1e-6)


@pytest.mark.parametrize("norm", [LayerNorm(eps=1e-6), RMSNorm(eps=1e-6)])
def test_norms_compute_in_float32_and_cast_back(norm):
    # In float16 the mean of these is wrong by a quarter, and their squares overflow.
    x = jnp.asarray([1000.0, 1001.0, 1002.0, 1004.0], jnp.float16)
    params = norm.init(jax.random.key(0), x)
    y = norm.apply(params, x)
    assert y.dtype == jnp.float16
    np.testing.assert_allclose(y, norm.apply(params, x.astype(jnp.float32)), atol=1e-3)


def test_projection_contracts_and_produces_several_axes():
    """[2, 3] in, [2] out: equals a matrix with six rows."""
    layer = Projection({"heads": 2, "kv": 3}, {"embed": 2}, use_bias=True)
    kernel = jnp.arange(12.0).reshape(2, 3, 2)
    params = {"kernel": kernel, "bias": jnp.asarray([100.0, 200.0])}
    x = jnp.arange(6.0).reshape(1, 2, 3)
    y = layer.apply({"params": params}, x)
    np.testing.assert_allclose(y, x.reshape(1, 6) @ kernel.reshape(6, 2) + params["bias"])


def test_embedding_and_its_tied_head():
    table = jnp.asarray([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
    layer, params = Embedding(3, 2), {"params": {"embedding": table}}
    np.testing.assert_array_equal(layer.apply(params, jnp.asarray([2, 0])), [[5, 6], [1, 2]])
    logits = layer.apply(params, jnp.asarray([[1.0, -1.0]]), method=Embedding.attend)
    np.testing.assert_array_equal(logits, [[-1, -1, -1]])


def test_activations():
    x = jnp.asarray([-2.0, 0.0, 1.0])
    np.testing.assert_allclose(quick_gelu(x), x / (1 + np.exp(-1.702 * x)), rtol=1e-5)
    # GELU(1) = 0.841345 and GELU(-2) = -0.0455; the tanh form is within 1e-3.
    np.testing.assert_allclose(bloom_gelu(x), [-0.0455, 0, 0.841345], atol=1e-3)
