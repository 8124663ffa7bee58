"""Attention: masks, and values against a NumPy computation in float64."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from owl_jax.errors import UserError
from owl_jax.models.attention import xla
from owl_jax.models.attention.dispatch import attend, choose
from owl_jax.models.attention.mask import (
    AttentionMask,
    PastTokens,
    alibi_bias,
    self_attention_mask,
)
from owl_jax.models.cache import Past


def _int(values):
    return jnp.asarray(values, jnp.int32)


def _for_platform(platform):
    """A mesh of an abstract device, as in a compilation ahead of time."""
    device = jax.sharding.AbstractDevice(device_kind="", num_cores=1, platform=platform)
    return jax.sharding.use_abstract_mesh(
        jax.sharding.AbstractMesh((1,), ("data",), abstract_device=device)
    )


def test_mask_of_a_sequence_is_causal():
    mask = self_attention_mask(_int([[0, 1, 2]]), _int([[1, 1, 1]]))
    np.testing.assert_array_equal(mask.dense()[0, 0], [[1, 0, 0], [1, 1, 0], [1, 1, 1]])


def test_mask_keeps_packed_conversations_and_padding_apart():
    mask = self_attention_mask(_int([[0, 1, 0, 1, 2, 0]]), _int([[1, 1, 2, 2, 2, 0]]))
    np.testing.assert_array_equal(
        mask.dense()[0, 0],
        [
            [1, 0, 0, 0, 0, 0],
            [1, 1, 0, 0, 0, 0],
            [0, 0, 1, 0, 0, 0],
            [0, 0, 1, 1, 0, 0],
            [0, 0, 1, 1, 1, 0],
            [0, 0, 0, 0, 0, 1],
        ],
    )


def test_mask_of_a_query_after_a_cache():
    """Rows with one and with three tokens in a cache of four slots."""
    past = PastTokens(_int([1, 3]))
    mask = self_attention_mask(_int([[1], [3]]), _int([[1], [1]]), past)
    np.testing.assert_array_equal(mask.dense_past(4)[:, 0], [[[1, 0, 0, 0]], [[1, 1, 1, 0]]])
    np.testing.assert_array_equal(mask.dense_past(4, 3)[:, 0], [[[1, 0, 0, 0]], [[0, 1, 1, 0]]])
    np.testing.assert_array_equal(mask.dense()[:, 0], [[[1]], [[1]]])


@pytest.mark.parametrize("key_heads", [4, 2, 1])
def test_attend_is_softmax_attention(key_heads):
    B, L, H, K = 2, 5, 4, 8
    random = np.random.default_rng(0)
    q = random.normal(size=(B, L, H, K)).astype(np.float32)
    k, v = random.normal(size=(2, B, key_heads, L, K)).astype(np.float32)
    slopes = random.random(H).astype(np.float32)
    mask = self_attention_mask(_int([[0, 1, 2, 0, 1]] * B), _int([[1, 1, 1, 2, 2]] * B))

    whole_k, whole_v = (x.repeat(H // key_heads, axis=1).astype(np.float64) for x in (k, v))
    distance = np.array([0, 1, 2, 0, 1]) - np.array([0, 1, 2, 0, 1])[:, None]
    scores = np.einsum("blhk,bhsk->bhls", q, whole_k) / np.sqrt(K)
    scores += slopes[:, None, None] * distance
    weights = np.exp(scores) * np.asarray(mask.dense())
    weights /= weights.sum(axis=-1, keepdims=True)
    expected = np.einsum("bhls,bhsk->blhk", weights, whole_v)
    np.testing.assert_allclose(attend(q, k, v, mask, slopes), expected, atol=1e-5)


def test_a_window_counts_positions_up_to_the_query():
    mask = self_attention_mask(_int([[0, 1, 2, 3, 0, 1]]), _int([[1, 1, 1, 1, 2, 2]]))
    np.testing.assert_array_equal(
        mask.dense(window=2)[0, 0],
        [
            [1, 0, 0, 0, 0, 0],
            [1, 1, 0, 0, 0, 0],
            [0, 1, 1, 0, 0, 0],
            [0, 0, 1, 1, 0, 0],
            [0, 0, 0, 0, 1, 0],
            [0, 0, 0, 0, 1, 1],
        ],
    )


@pytest.mark.parametrize("window", [1, 2, 4])
def test_a_window_after_a_cache_equals_whole_sequences(window):
    B, L, S, start = 2, 5, 7, 3
    random = np.random.default_rng(0)
    q = random.normal(size=(B, L, 4, 8)).astype(np.float32)
    k, v = random.normal(size=(2, B, 2, L, 8)).astype(np.float32)
    positions, ones = _int([[0, 1, 2, 3, 4]] * B), jnp.ones((B, L), jnp.int32)
    run = jax.jit(partial(attend, window=window))
    expected = run(q, k, v, self_attention_mask(positions, ones))
    past = {name: np.full((B, 2, S, 8), 1e4, np.float32) for name in "kv"}
    past["k"][:, :, :start], past["v"][:, :, :start] = k[:, :, :start], v[:, :, :start]
    lengths = PastTokens(_int([start] * B))
    mask = self_attention_mask(positions[:, start:], ones[:, start:], lengths)
    given = q[:, start:], k[:, :, start:], v[:, :, start:]
    new = run(*given, mask, past=Past(past, None))
    np.testing.assert_allclose(new, expected[:, start:], atol=1e-5)


def test_blockwise_leaves_windows_to_xla():
    q, k = jnp.zeros((1, 512, 2, 8)), jnp.zeros((1, 2, 512, 8))
    mask = self_attention_mask(_int([[*range(512)]]), jnp.ones((1, 512), jnp.int32))
    assert choose("blockwise", q, k, mask, None) == "blockwise"
    assert choose("blockwise", q, k, mask, None, window=100) == "xla"


def _after_a_cache(lengths, key_heads, alibi, rows=None, stacked=False):
    """(attention after a cache, its arguments, the expected result).

    Sequences of 5 tokens, of which the first lengths[b] are in a cache of 7 slots. All other slots
    must be masked.
    """
    B, L, S, H, K = len(lengths), 5, 7, 4, 8
    random = np.random.default_rng(0)
    q = random.normal(size=(B, L, H, K)).astype(np.float32)
    k, v = random.normal(size=(2, B, key_heads, L, K)).astype(np.float32)
    slopes = random.random(H).astype(np.float32) if alibi else None
    positions = _int([[*range(L)]] * B)
    mask = self_attention_mask(positions, np.ones_like(positions))
    whole = np.asarray(jax.jit(attend)(q, k, v, mask, slopes))

    new = L - max(lengths)  # queries of each sequence
    at = np.asarray(lengths)[:, None] + np.arange(new)
    each = np.arange(B)[:, None]
    num_rows = B if rows is None else max(rows) + 1
    cache = {name: np.full((num_rows, key_heads, S, K), 1e4, np.float32) for name in "kv"}
    for row, length in enumerate(lengths):
        for name, x in (("k", k), ("v", v)):
            cache[name][row if rows is None else rows[row], :, :length] = x[row, :, :length]
    layer = None
    if stacked:
        cache = {name: np.stack([np.full_like(x, 1e4), x]) for name, x in cache.items()}
        layer = jnp.asarray(1)
    past = PastTokens(_int(lengths), None if rows is None else _int(rows))
    mask = self_attention_mask(_int(at), jnp.ones((B, new), jnp.int32), past)

    def run(q, k, v, cache):
        return attend(q, k, v, mask, slopes, past=Past(cache, layer))

    given = q[each, at], k.swapaxes(1, 2)[each, at], v.swapaxes(1, 2)[each, at]
    q, k, v = given[0], given[1].swapaxes(1, 2), given[2].swapaxes(1, 2)
    return run, (q, k, v, cache), whole[each, at]


@pytest.mark.parametrize("alibi", [False, True])
@pytest.mark.parametrize("key_heads", [4, 2])
@pytest.mark.parametrize("lengths", [[4, 4], [2, 2], [3, 1], [0, 4]])
def test_cached_attention_equals_whole_sequences(lengths, key_heads, alibi):
    run, arguments, expected = _after_a_cache(lengths, key_heads, alibi)
    np.testing.assert_allclose(jax.jit(run)(*arguments), expected, atol=1e-5)


@pytest.mark.parametrize("stacked", [False, True])
def test_sequences_may_be_in_any_rows_of_the_cache(stacked):
    run, arguments, expected = _after_a_cache([3, 1], 2, True, rows=[4, 1], stacked=stacked)
    np.testing.assert_allclose(jax.jit(run)(*arguments), expected, atol=1e-5)


def test_cached_attention_in_the_form_for_a_tpu(monkeypatch):
    """The TPU's form, which copies a single query, computed on this platform."""
    run, arguments, expected = _after_a_cache([4, 2], 2, alibi=True)
    here = str(jax.make_jaxpr(run)(*arguments))
    monkeypatch.setattr(xla, "platform", lambda: "tpu")
    there = str(jax.make_jaxpr(lambda *x: run(*x))(*arguments))
    assert "[2,8,4,8]" in there and "[2,8,4,8]" not in here
    np.testing.assert_allclose(run(*arguments), expected, atol=1e-5)


def test_without_a_mask_every_query_attends_to_every_key():
    q, k = jnp.zeros((1, 2, 1, 4)), jnp.zeros((1, 1, 3, 4))
    v = jnp.asarray([[[[0.0] * 4, [3.0] * 4, [6.0] * 4]]])
    np.testing.assert_allclose(attend(q, k, v), np.full((1, 2, 1, 4), 3.0), atol=1e-6)


def test_a_query_without_keys_is_finite():
    q, k, v = jnp.ones((1, 1, 1, 4)), jnp.ones((1, 1, 1, 4)), jnp.ones((1, 1, 1, 4))
    mask = AttentionMask(_int([[0]]), _int([[5]]), _int([[0]]), _int([[1]]))
    loss = lambda q: attend(q, k, v, mask).sum()  # noqa: E731
    assert np.isfinite(loss(q))
    assert np.isfinite(jax.grad(loss)(q)).all()


def test_alibi_counts_positions_of_the_conversation_not_slots():
    positions = _int([[0, 1, 0, 1]])
    bias = alibi_bias(jnp.asarray([0.5, 0.25]), positions, positions)
    assert bias.shape == (1, 2, 4, 4)
    assert bias.dtype == jnp.float32
    np.testing.assert_allclose(bias[0, 0, 1], [-0.5, 0, -0.5, 0])
    np.testing.assert_allclose(bias[0, 1, 3], [-0.25, 0, -0.25, 0])


def test_unsuitable_implementation_is_named():
    x = jnp.ones((1, 1, 1, 4))
    known = "auto, xla, splash, blockwise, cudnn"
    with pytest.raises(UserError, match=f"'flash': expected one of {known}"):
        attend(x, x, x, implementation="flash")
    mask = self_attention_mask(_int([[0]]), _int([[0]]))
    with pytest.raises(UserError, match="does not support ALiBi"):
        attend(x, x, x, mask, slopes=jnp.zeros(1), implementation="cudnn")
    with pytest.raises(UserError, match="runs on NVIDIA GPUs, not on a cpu"):
        attend(x, x, x, mask, implementation="cudnn")


WHOLE, CACHE, NONE = "whole", "cache", "none"


@pytest.mark.parametrize(
    ("platform", "kind", "length", "dtype", "alibi", "expected"),
    [
        ("tpu", WHOLE, 2048, "bfloat16", False, "splash"),
        ("tpu", WHOLE, 300, "float32", True, "splash"),
        ("tpu", WHOLE, 127, "bfloat16", False, "xla"),
        ("tpu", CACHE, 1, "bfloat16", False, "xla"),
        ("tpu", NONE, 257, "bfloat16", False, "xla"),
        ("gpu", WHOLE, 2048, "bfloat16", False, "cudnn"),
        ("gpu", NONE, 257, "bfloat16", False, "cudnn"),
        ("gpu", WHOLE, 2048, "bfloat16", True, "xla"),
        ("gpu", WHOLE, 2048, "float32", False, "xla"),
        ("gpu", WHOLE, 301, "bfloat16", False, "xla"),
        ("gpu", CACHE, 1, "bfloat16", False, "xla"),
        ("cpu", WHOLE, 2048, "bfloat16", True, "blockwise"),
        ("cpu", WHOLE, 511, "float32", False, "xla"),
        ("cpu", CACHE, 1, "float32", False, "xla"),
        ("cpu", NONE, 577, "float32", False, "xla"),
    ],
)
def test_auto_follows_the_mesh_that_the_program_is_for(
    platform, kind, length, dtype, alibi, expected
):
    slots = 4096 if kind == CACHE else length
    q = jax.ShapeDtypeStruct((1, length, 4, 64), dtype)
    k = jax.ShapeDtypeStruct((1, 4, slots, 64), dtype)
    queries, keys = (jax.ShapeDtypeStruct((1, n), "int32") for n in (length, slots))
    mask = None if kind == NONE else AttentionMask(queries, queries, queries, keys, keys)
    with _for_platform(platform):
        assert choose("auto", q, k, mask, np.ones(4) if alibi else None) == expected
        if expected != "cudnn":
            named = choose("splash", q, k, mask, None)
            assert named == ("splash" if kind == WHOLE and length >= 128 else "xla")


@pytest.mark.parametrize(
    ("platform", "implementation", "length", "rows", "is_ragged"),
    [
        ("tpu", "auto", 1, None, True),
        ("tpu", "splash", 1, None, True),
        ("tpu", "xla", 1, None, False),
        ("tpu", "auto", 2, None, False),
        ("tpu", "auto", 1, [0, 1], False),
        ("gpu", "auto", 1, None, False),
        ("cpu", "auto", 1, None, False),
    ],
)
def test_a_token_after_a_cache_has_a_kernel_on_a_tpu(
    platform, implementation, length, rows, is_ragged
):
    leaf = jnp.zeros((2, 2, 4, 128, 128))
    past = Past({"k": leaf, "v": leaf}, jnp.asarray(1))
    q, k = jnp.zeros((2, length, 4, 128)), jnp.zeros((2, 4, length, 128))
    tokens = PastTokens(_int([1, 3]), None if rows is None else _int(rows))
    positions = _int([[1, 2], [3, 4]])[:, :length]
    mask = self_attention_mask(positions, jnp.ones_like(positions), tokens)
    with _for_platform(platform):
        traced = jax.make_jaxpr(lambda q, k: attend(q, k, k, mask, None, implementation, past))(
            q, k
        )
    assert ("ragged_decode" in str(traced)) == is_ragged


def test_the_cpu_form_equals_the_general_one():
    """Values and gradients of a short packed sequence with grouped heads."""
    L = 88
    random = np.random.default_rng(0)
    q, k, v = (
        jnp.asarray(random.normal(size=shape), jnp.float32)
        for shape in ((2, L, 4, 8), (2, 2, L, 8), (2, 2, L, 8))
    )
    segments = jnp.asarray(np.sort(random.integers(1, 5, (2, L)), axis=1))
    mask = self_attention_mask(jnp.tile(jnp.arange(L), (2, 1)), segments)
    slopes = jnp.asarray([0.5, 0.25, 0.1, 0.05])

    @jax.jit
    def reference(q, k, v):
        weights = jax.nn.softmax(xla._scores(q, k, mask, slopes), axis=-1)
        return xla._weighted_values(weights, v)

    @jax.jit
    def ours(q, k, v):
        return attend(q, k, v, mask, slopes)

    def gradients(f):
        return jax.jit(jax.grad(lambda *x: jnp.sin(f(*x)).sum(), (0, 1, 2)))(q, k, v)

    np.testing.assert_allclose(ours(q, k, v), reference(q, k, v), rtol=0, atol=2e-5)
    for got, expected in zip(gradients(ours), gradients(reference), strict=True):
        np.testing.assert_allclose(got, expected, rtol=0, atol=2e-5)
