"""Matmuls with narrow weights: blockwise they are exact, and no wide copy of a weight exists."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from owl_jax.models import matmul as module
from owl_jax.models.matmul import bits_of, matmul, matmul_transposed, widen


def weight_of(kind, shape):
    values = np.random.default_rng(0).normal(size=shape)
    if kind == "int8":
        return jnp.asarray(np.rint(values * 40), jnp.int8)
    narrow = jnp.asarray(values, jnp.bfloat16)
    return jnp.asarray(bits_of(np.asarray(narrow))) if kind == "bits" else narrow


def exact(weight):
    if weight.dtype == jnp.uint16:
        weight = np.asarray(weight).view(jnp.bfloat16)
    return np.asarray(weight, np.float64)


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr(module, "_BLOCK", 16)
    monkeypatch.setattr(module, "_BITS_BLOCK", 16)


def multiplied(x, kind):
    """x as it is multiplied: rounded to bfloat16 for bits, else unchanged."""
    return np.asarray(x.astype(jnp.bfloat16) if kind == "bits" else x, np.float64)


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("kind", ["int8", "bfloat16", "bits"])
@pytest.mark.parametrize(
    ("x_shape", "kernel_shape", "depth"),
    [
        ((2, 3, 8), (8, 6), 1),
        ((5, 12), (12, 2, 4), 1),
        ((3, 2, 7), (2, 7, 5), 2),
        ((7,), (7, 9), 1),
    ],
)
def test_blockwise_matmul(kind, x_shape, kernel_shape, depth):
    x = jax.random.normal(jax.random.key(1), x_shape)
    kernel = weight_of(kind, kernel_shape)
    expected = np.tensordot(multiplied(x, kind), exact(kernel), axes=depth)
    np.testing.assert_allclose(matmul(x, kernel, depth), expected, rtol=1e-5, atol=1e-4)
    # Under differentiation nothing is rounded.
    unrounded = np.tensordot(np.asarray(x, np.float64), exact(kernel), axes=depth)
    y, pullback = jax.vjp(lambda x: matmul(x, kernel, depth), x)
    np.testing.assert_allclose(y, unrounded, rtol=1e-5, atol=1e-4)
    (gradient,) = pullback(jnp.ones_like(y))
    columns = exact(kernel).reshape(*kernel_shape[:depth], -1).sum(-1)
    np.testing.assert_allclose(gradient, np.broadcast_to(columns, x_shape), rtol=1e-5, atol=1e-4)


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("kind", ["int8", "bfloat16", "bits"])
def test_blockwise_matmul_transposed(kind):
    x, rows = jax.random.normal(jax.random.key(1), (2, 3, 8)), weight_of(kind, (21, 8))
    expected = multiplied(x, kind) @ exact(rows).T
    np.testing.assert_allclose(matmul_transposed(x, rows), expected, rtol=1e-5, atol=1e-4)
    unrounded = np.asarray(x, np.float64) @ exact(rows).T
    y, pullback = jax.vjp(lambda x: matmul_transposed(x, rows), x)
    np.testing.assert_allclose(y, unrounded, rtol=1e-5, atol=1e-4)
    (gradient,) = pullback(jnp.ones_like(y))
    sums = np.broadcast_to(exact(rows).sum(0), x.shape)
    np.testing.assert_allclose(gradient, sums, rtol=1e-5, atol=1e-4)


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("multiply", [lambda x, w: matmul(x, w, 1), matmul_transposed])
def test_bits_times_one_row_equals_its_row_of_a_batch(multiply):
    x, bits = jax.random.normal(jax.random.key(1), (9, 16)), weight_of("bits", (16, 16))
    alone = jnp.concatenate([multiply(x[i : i + 1], bits) for i in range(len(x))])
    np.testing.assert_allclose(alone, multiply(x, bits), rtol=1e-5, atol=1e-5)


@pytest.mark.usefixtures("small_blocks")
def test_a_narrow_result_has_the_dtype_of_x():
    """As on every platform: a program for a TPU is traced with the CPU's form beside its own."""
    x = jnp.asarray(np.random.default_rng(1).normal(size=(3, 8)), jnp.bfloat16)
    kernel = weight_of("int8", (8, 6))
    y = matmul(x, kernel, 1)
    assert y.dtype == jnp.bfloat16
    expected = np.asarray(x, np.float64) @ exact(kernel)
    np.testing.assert_allclose(np.asarray(y, np.float64), expected, rtol=0.01, atol=1)


def test_bits_of_preserves_values():
    narrow = weight_of("bfloat16", (40, 50))
    wide = widen(jnp.asarray(bits_of(np.asarray(narrow))), jnp.float32)
    np.testing.assert_array_equal(wide, np.asarray(narrow, np.float32))


@pytest.mark.parametrize("kind", ["int8", "bits"])
@pytest.mark.parametrize("in_loop", [False, True])
def test_no_wide_copy_of_a_narrow_weight(kind, in_loop):
    """Temporary memory for two layers is far below one weight in float32."""
    side = 2048
    kernels = [weight_of(kind, (side, side)) for _ in range(2)]

    def layers(x, kernels):
        for kernel in kernels:
            x = jnp.tanh(matmul(x, kernel, 1))
        return x

    def run(x, kernels):
        return (
            jax.lax.fori_loop(0, 3, lambda _, x: layers(x, kernels), x)
            if in_loop
            else layers(x, kernels)
        )

    compiled = jax.jit(run).lower(jnp.zeros((1, side)), kernels).compile()
    temporary = compiled.memory_analysis().temp_size_in_bytes
    # One narrow and one wide block per matmul.
    assert temporary < 3 * module._BLOCK * 4 < side * side * 4
