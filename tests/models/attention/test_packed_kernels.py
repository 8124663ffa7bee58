"""Kernels for packed sequences against attention in XLA, values and gradients."""

import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from owl_jax.models.attention.blockwise import BLOCK
from owl_jax.models.attention.dispatch import attend
from owl_jax.models.attention.mask import AttentionMask, self_attention_mask
from owl_jax.models.attention.packed_kernels import with_alibi
from owl_jax.models.language.bloom import alibi_slopes
from owl_jax.models.remat import policy
from owl_jax.parallel.mesh import make_mesh
from owl_jax.parallel.sharding import LogicalRules

RULES = LogicalRules()


def packed_mask(B, L):
    """Sequences of three conversations and padding, of other lengths in each sequence."""
    random = np.random.default_rng(L)
    cuts = np.sort(random.choice(np.arange(1, L), (B, 3), replace=False))
    segments = np.array([np.searchsorted(ends, np.arange(L), side="right") for ends in cuts])
    starts = np.take_along_axis(np.pad(cuts, ((0, 0), (1, 0))), segments, axis=1)
    positions = np.arange(L) - starts
    return self_attention_mask(
        *(jnp.asarray(x, jnp.int32) for x in (positions, (segments + 1) % 4))
    )


def qkv(B, L, H, G, K, dtype=jnp.float32):
    random = np.random.default_rng(0)
    shapes = (B, L, H, K), (B, G, L, K), (B, G, L, K)
    return [jnp.asarray(random.normal(size=shape), dtype) for shape in shapes]


def values_and_gradients(implementation, q, k, v, mask, slopes=None, window=0):
    weights = jnp.asarray(np.random.default_rng(1).normal(size=q.shape), jnp.float32)

    def total(q, k, v):
        out = attend(q, k, v, mask, slopes, implementation, window=window)
        assert out.dtype == q.dtype
        return jnp.sum(out * weights), out

    run = jax.jit(jax.value_and_grad(total, argnums=(0, 1, 2), has_aux=True))
    (_, out), gradients = run(q, k, v)
    return out, *gradients


def assert_same(ours, expected, tolerance):
    for name, x, y in zip(("out", "dq", "dk", "dv"), ours, expected, strict=True):
        x, y = (np.asarray(a, np.float32) for a in (x, y))
        assert np.abs(x - y).max() <= tolerance * np.abs(y).max(), name


@pytest.mark.parametrize("alibi", [False, True])
@pytest.mark.parametrize(
    ("L", "H", "G", "K"),
    [
        (128, 4, 4, 128),
        (200, 4, 2, 64),  # padded to 256; two heads share a key
        (131, 6, 1, 80),  # slopes of six heads are not powers of two
        (300, 2, 2, 16),
    ],
)
def test_splash_equals_xla(L, H, G, K, alibi):
    given = *qkv(2, L, H, G, K), packed_mask(2, L), jnp.asarray(alibi_slopes(H)) if alibi else None
    expected = values_and_gradients("xla", *given)
    assert_same(values_and_gradients("splash", *given), expected, 1e-5)


@pytest.mark.parametrize("window", [2, 40, 300])
def test_splash_with_a_window_equals_xla(window):
    """Packed, padded to the kernel's blocks; no token is 300 tokens away."""
    given = *qkv(2, 200, 4, 2, 64), packed_mask(2, 200), None, window
    expected = values_and_gradients("xla", *given)
    assert_same(values_and_gradients("splash", *given), expected, 1e-5)
    whole = values_and_gradients("xla", *given[:-1])
    assert (np.abs(np.asarray(expected[0] - whole[0])).max() > 0.1) == (window < 200)


@pytest.mark.parametrize("alibi", [False, True])
@pytest.mark.parametrize(
    ("L", "H", "G"),
    [
        (512, 2, 2),
        (600, 4, 2),  # padded to 768; two heads share a key
        (2000, 2, 1),  # eight blocks
    ],
)
def test_blockwise_equals_xla(L, H, G, alibi):
    given = *qkv(2, L, H, G, 16), packed_mask(2, L), jnp.asarray(alibi_slopes(H)) if alibi else None
    expected = values_and_gradients("xla", *given)
    assert_same(values_and_gradients("blockwise", *given), expected, 2e-5)


def test_blockwise_of_one_long_conversation():
    """Query blocks use all key blocks before them; five are computed as six, from the start."""
    L = 1280
    mask = self_attention_mask(jnp.arange(L)[None], jnp.ones((1, L), jnp.int32))
    given = *qkv(1, L, 2, 2, 16), mask
    expected = values_and_gradients("xla", *given)
    assert_same(values_and_gradients("blockwise", *given), expected, 2e-5)


def test_blockwise_skips_blocks_of_other_conversations():
    """They hold NaN, which would spread."""
    L = 8 * BLOCK
    segments = jnp.repeat(jnp.asarray([1, 2, 3, 4], jnp.int32), 2 * BLOCK)[None]
    q, k, v = qkv(1, L, 2, 2, 16)
    others = segments[0] == 2
    k, v = (jnp.where(others[:, None], jnp.nan, x) for x in (k, v))
    out, dq, dk, dv = values_and_gradients(
        "blockwise", q, k, v, self_attention_mask(segments, segments)
    )
    for x in (out, dq):
        np.testing.assert_array_equal(np.isnan(x).any(axis=(0, 2, 3)), others)
    for x in (dk, dv):
        assert np.isfinite(x[:, :, ~others]).all()


@pytest.mark.parametrize("alibi", [False, True])
def test_several_blocks(alibi):
    """1,100 tokens are two blocks of 640; of the four pairs of blocks one is masked entirely."""
    given = (
        *qkv(1, 1100, 2, 2, 16),
        packed_mask(1, 1100),
        jnp.asarray(alibi_slopes(2)) if alibi else None,
    )
    expected = values_and_gradients("xla", *given)
    assert_same(values_and_gradients("splash", *given), expected, 2e-5)


@pytest.mark.parametrize("alibi", [False, True])
@pytest.mark.parametrize(("kernel", "L"), [("splash", 256), ("blockwise", 512)])
def test_bfloat16(kernel, L, alibi):
    """The error against float32 is that of the inputs' rounding."""
    slopes = jnp.asarray(alibi_slopes(6)) if alibi else None
    mask = packed_mask(1, L)
    exact = values_and_gradients("xla", *qkv(1, L, 6, 6, 64), mask, slopes)
    narrow = qkv(1, L, 6, 6, 64, jnp.bfloat16)
    assert_same(values_and_gradients(kernel, *narrow, mask, slopes), exact, 2e-2)


def test_alibi_is_exact_at_far_positions():
    """Scores of 1,700 from bfloat16 inputs, although bfloat16's steps there are 8."""
    slopes = jnp.asarray(alibi_slopes(6))
    q, k = jnp.zeros((1, 6, 1, 8), jnp.bfloat16), jnp.zeros((1, 6, 3, 8), jnp.bfloat16)
    positions = jnp.asarray([[1, 1023, 2047]], jnp.int32)
    wide_q, wide_k = with_alibi(q, k, slopes, positions)
    assert wide_q.dtype == wide_k.dtype == jnp.bfloat16
    scores = jnp.einsum("bhlk,bhsk->hs", wide_q, wide_k, preferred_element_type=jnp.float32)
    np.testing.assert_allclose(scores, slopes[:, None] * positions, rtol=1e-6)


@pytest.mark.parametrize(("H", "G"), [(4, 4), (4, 2), (4, 1)])
@pytest.mark.parametrize("alibi", [False, True])
@pytest.mark.parametrize(("kernel", "L"), [("splash", 160), ("blockwise", 520)])
def test_a_mesh_computes_what_one_device_does(kernel, L, H, G, alibi):
    """One key head cannot be sharded over two devices: each then has all heads."""
    given = *qkv(4, L, H, G, 16), packed_mask(4, L), jnp.asarray(alibi_slopes(H)) if alibi else None
    expected = values_and_gradients("xla", *given)
    with jax.set_mesh(make_mesh(2, 2, 2)), nn.logical_axis_rules(RULES.flax_rules()):
        ours = values_and_gradients(kernel, *given)
    assert_same(ours, expected, 1e-5)
    assert len(ours[0].sharding.device_set) == 8


def test_a_batch_that_the_mesh_does_not_divide():
    given = *qkv(1, 160, 2, 2, 16), packed_mask(1, 160)
    expected = values_and_gradients("xla", *given)
    with jax.set_mesh(make_mesh(2, 2, 2)), nn.logical_axis_rules(RULES.flax_rules()):
        assert_same(values_and_gradients("splash", *given), expected, 1e-5)


@pytest.mark.parametrize(("kernel", "L"), [("splash", 160), ("blockwise", 520)])
def test_queries_without_keys_are_finite(kernel, L):
    """Keys masked for all queries, as by a caller's attention_mask."""
    slots, ones = jnp.arange(L), jnp.ones((1, L), jnp.int32)
    mask = AttentionMask(slots[None], ones, slots[None], ones.at[:, :20].set(0))
    for slopes in (None, jnp.asarray(alibi_slopes(2))):
        given = *qkv(1, L, 2, 2, 16), mask, slopes
        ours, expected = (values_and_gradients(name, *given) for name in (kernel, "xla"))
        assert all(np.isfinite(x).all() for x in ours)
        np.testing.assert_allclose(ours[0][:, 20:], expected[0][:, 20:], atol=1e-5)


def test_blockwise_gives_queries_without_keys_no_gradient():
    L = 2 * BLOCK
    slots, ones = jnp.arange(L), jnp.ones((1, L), jnp.int32)
    mask = AttentionMask(slots[None], ones, slots[None], ones.at[:, :20].set(0))
    given = *qkv(1, L, 2, 2, 16), mask
    ours, expected = (values_and_gradients(name, *given) for name in ("blockwise", "xla"))
    assert_same((expected[0], *ours[1:3], expected[3]), expected, 1e-5)
    assert not ours[1][:, :20].any()
    assert not ours[2][:, :, :20].any()
    assert not ours[3][:, :, :20].any()


def test_blockwise_of_segments_out_of_order():
    """Interleaved conversations and padding."""
    L = 4 * BLOCK
    segments = jnp.asarray(np.random.default_rng(0).integers(0, 9, (2, L)), jnp.int32)
    given = *qkv(2, L, 2, 2, 16), self_attention_mask(segments, segments)
    expected = values_and_gradients("xla", *given)
    assert_same(values_and_gradients("blockwise", *given), expected, 2e-5)


def test_blockwise_materialises_neither_scores_nor_masks():
    """A scan over layers hoists loop invariants, masks among them, without the barrier."""
    L, layers = 4 * BLOCK, 3
    mask = packed_mask(1, L)

    def loss(q, k, v):
        def layer(q, _):
            return q + attend(q, k, v, mask, implementation="blockwise"), None

        return jnp.sum(jax.lax.scan(layer, q, None, length=layers)[0])

    compiled = jax.jit(jax.grad(loss)).lower(*qkv(1, L, 2, 2, 16)).compile()
    widest = max(
        int(np.prod([int(size) for size in shape.split(",")]))
        for shape in re.findall(r"[a-z]+\d*\[([\d,]+)\]", compiled.as_text())
    )
    assert widest < L * L


@pytest.mark.parametrize(("kernel", "L"), [("splash", 128), ("blockwise", 512)])
def test_a_saved_context_avoids_a_second_forward_kernel(kernel, L):
    """An interpreted kernel is a loop over its blocks."""
    q, k, v = qkv(2, L, 2, 2, 16)
    mask = packed_mask(2, L)

    def layer(q):
        return jnp.sum(jnp.square(attend(jnp.sin(q), k, v, mask, implementation=kernel)))

    def kernels(remat):
        run = jax.jit(jax.value_and_grad(jax.checkpoint(layer, policy=policy(remat))))
        return run.lower(q).compile().as_text().count(" while(")

    saved = {remat: kernels(remat) for remat in ("save:context", "minimal", "dots")}
    assert saved == dict.fromkeys(saved, kernels("full") - 1)
