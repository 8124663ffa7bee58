"""Rotary positions. The rest of LLaMA is compared with the original in test_owl.py."""

import jax.numpy as jnp
import numpy as np

from owl_jax.models.language.rope import rotary_tables, rotate

K, THETA = 8, 10000.0


def _rotated(x, positions):
    return rotate(jnp.asarray(x), *rotary_tables(jnp.asarray(positions), x.shape[-1], THETA))


def test_rotation_equals_complex_multiplication():
    """Element j of each half is a part of one complex number."""
    random = np.random.default_rng(0)
    x = random.normal(size=(2, 5, 3, K)).astype(np.float32)
    positions = np.array([[0, 1, 2, 3, 4], [7, 0, 1, 500, 2047]], np.int32)
    pairs = x[..., : K // 2] + 1j * x[..., K // 2 :]
    frequencies = THETA ** (-2.0 * np.arange(K // 2) / K)
    rotated = pairs * np.exp(1j * positions[:, :, None, None] * frequencies)
    expected = np.concatenate([rotated.real, rotated.imag], axis=-1)
    np.testing.assert_allclose(_rotated(x, positions), expected, atol=1e-3)
    np.testing.assert_allclose(_rotated(x, positions)[0], expected[0], atol=1e-6)


def test_dot_products_depend_only_on_distance():
    q, k = np.random.default_rng(1).normal(size=(2, 1, 1, 1, K)).astype(np.float32)
    near = [
        float(jnp.sum(_rotated(q, [[start + 3]]) * _rotated(k, [[start]]))) for start in (0, 40)
    ]
    np.testing.assert_allclose(*near, rtol=1e-4)


def test_bfloat16_rounds_only_once():
    x = jnp.asarray(np.random.default_rng(2).normal(size=(1, 4, 2, K)), jnp.bfloat16)
    positions = np.array([[0, 3, 900, 2047]])
    narrow = _rotated(x, positions)
    assert narrow.dtype == jnp.bfloat16
    exact = _rotated(x.astype(jnp.float32), positions)
    np.testing.assert_array_equal(narrow, exact.astype(jnp.bfloat16))
