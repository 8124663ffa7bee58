"""Keys and values in int8."""

import jax.numpy as jnp
import numpy as np
import pytest

from owl_jax.models.compute import Compute
from owl_jax.models.int8_cache import bytes_of_a_head, cached_form, quantize, scaled


def drawn(*shape):
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def test_the_error_is_at_most_half_a_step():
    """A step is 1/127 of the token's largest value in the head; zeros stay zeros."""
    x = drawn(2, 3, 5, 16) * 10.0 ** np.arange(-2, 3)[:, None]
    x[1, 2, 3] = 0
    values, scale = quantize(jnp.asarray(x))
    assert (values.dtype, scale.dtype) == (jnp.int8, jnp.float32)
    assert scale.shape == (2, 3, 5, 1)
    np.testing.assert_allclose(scale[..., 0], np.abs(x).max(axis=-1) / 127, rtol=1e-6)
    assert (np.abs(values * scale - x) <= scale * 0.5001).all()
    assert not values[1, 2, 3].any()
    assert int(np.abs(np.asarray(values, np.int32)).max()) == 127


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_what_is_attended_to_is_what_is_stored(dtype):
    k, v = (jnp.asarray(x, dtype) for x in drawn(2, 2, 3, 5, 16))
    seen_k, seen_v, stored = cached_form(k, v, "int8")
    assert seen_k.dtype == seen_v.dtype == dtype
    for name, seen in (("k", seen_k), ("v", seen_v)):
        widened = stored[name] * stored[f"{name}_scale"]
        np.testing.assert_array_equal(seen, widened.astype(dtype))
    same_k, same_v, plain = cached_form(k, v, "auto")
    assert same_k is plain["k"] is k and same_v is plain["v"] is v


def test_quantising_again_changes_nothing():
    """So a prompt that is read from its own cache stays the same."""
    values, scale = quantize(jnp.asarray(drawn(4, 7, 16)))
    again, _ = quantize(values * scale)
    np.testing.assert_array_equal(again, values)


@pytest.mark.parametrize("shape", [(2, 6, 4, 5), (6, 5)])  # [B, H, L, S] and [H, S]
def test_scales_are_applied_by_key_head(shape):
    scores, H = drawn(*shape), 6
    scale = np.abs(drawn(*shape[:-3], 3, 5, 1)) if len(shape) == 4 else np.abs(drawn(3, 5, 1))
    found = scaled(jnp.asarray(scores), {"k_scale": jnp.asarray(scale)}, "k")
    by_head = np.repeat(scale, H // 3, axis=-3)
    expected = scores * (by_head.swapaxes(-1, -2) if len(shape) == 4 else by_head[..., 0])
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert scaled(scores, {"k": None}, "k") is scores


def test_bytes_of_a_head():
    assert bytes_of_a_head(128, Compute(jnp.bfloat16)) == 256
    assert bytes_of_a_head(128, Compute(jnp.bfloat16, cache_dtype="int8")) == 132
