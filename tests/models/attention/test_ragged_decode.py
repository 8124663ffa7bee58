"""The ragged decode kernel, interpreted, against attention with a cache in XLA."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from owl_jax.models.attention import ragged_decode as kernel
from owl_jax.models.attention.mask import AttentionMask, PastTokens, self_attention_mask
from owl_jax.models.attention.ragged_decode import ragged_decode, suits
from owl_jax.models.attention.xla import attend_with_cache
from owl_jax.models.cache import Past
from owl_jax.models.int8_cache import quantize, scale_of
from owl_jax.models.language.bloom import alibi_slopes
from owl_jax.parallel.mesh import make_mesh
from owl_jax.parallel.sharding import LogicalRules

MIXED = [0, 17, 431, 0, 0, 1, 127, 128, 129, 255, 256, 257, 512, 511, 2, 0]


def given(lengths, H=4, G=2, K=128, S=512, dtype=jnp.float32, layers=3, alibi=False):
    """Arguments of `ragged_decode`. Slots beyond a row's length, and other layers, hold NaN."""
    B = len(lengths)
    random = np.random.default_rng(0)
    q, k, v = (random.normal(size=(B, *shape)) for shape in ((1, H, K), (G, 1, K), (G, 1, K)))
    cache = {}
    for name in "kv":
        x = random.normal(size=(B, G, S, K))
        for row, length in enumerate(lengths):
            x[row, :, -(-length // 128) * 128 :] = np.nan
        if layers:
            x = np.stack([x if layer == 1 else np.full_like(x, np.nan) for layer in range(layers)])
        cache[name] = jnp.asarray(x, dtype)
    past = Past(cache, jnp.asarray(1) if layers else None)
    held = jnp.asarray(lengths, jnp.int32)
    mask = self_attention_mask(held[:, None], jnp.ones((B, 1), jnp.int32), PastTokens(held))
    slopes = jnp.asarray(alibi_slopes(H)) if alibi else None
    return past, *(jnp.asarray(x, dtype) for x in (q, k, v)), mask, slopes


@jax.jit
def in_int8(past, *others):
    """The same with a quantised cache; scales hold NaN where it did."""
    cache = {}
    for name, x in past.cache.items():
        cache[name], scale = quantize(jnp.nan_to_num(x))
        cache[scale_of(name)] = jnp.where(jnp.isnan(x).any(-1, keepdims=True), jnp.nan, scale)
    return Past(cache, past.layer), *others


@partial(jax.jit, static_argnames="window")
def in_xla(past, q, k, v, mask, slopes, window=0):
    """The same without NaN in the cache: XLA multiplies masked values by zero."""
    clean = Past({name: jnp.nan_to_num(x) for name, x in past.cache.items()}, past.layer)
    return attend_with_cache(clean, q, k, v, mask, slopes, window)


@partial(jax.jit, static_argnames="window")
def in_kernel(past, q, k, v, mask, slopes, window=0):
    return ragged_decode(past, q, k, v, mask, slopes, window)


def assert_equals_xla(given, window=0, tolerance=2e-6):
    past, *others = given
    assert suits(past, others[0], others[3])
    ours, expected = (attend(past, *others, window=window) for attend in (in_kernel, in_xla))
    assert ours.dtype == expected.dtype
    assert ours.shape == expected.shape
    ours, expected = (np.asarray(x, np.float32) for x in (ours, expected))
    np.testing.assert_allclose(ours, expected, rtol=0, atol=tolerance)
    return ours


@pytest.mark.parametrize(
    ("lengths", "alibi"),
    [(MIXED, False), (MIXED, True), ([0, 0, 0], True), ([1], True), ([512, 512], False)],
)
def test_equals_xla_and_reads_no_chunk_beyond_a_row(lengths, alibi):
    assert_equals_xla(given(lengths, alibi=alibi))


@pytest.mark.parametrize("window", [1, 128, 130, 5000])
def test_a_window(window):
    """Chunks before the window hold NaN too."""
    past, *others = given(MIXED, alibi=True)
    held = np.asarray(others[3].past.lengths)
    for row, length in enumerate(held):
        first = max(length - window + 1, 0) // 128 * 128
        past.cache.update(
            {name: x.at[:, row, :, :first].set(jnp.nan) for name, x in past.cache.items()}
        )
    assert_equals_xla((past, *others), window)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize(
    ("H", "G", "K", "S"),
    [
        (4, 4, 128, 320),  # chunks of 64
        (6, 1, 128, 144),  # chunks of 16; slopes of six heads are not powers of two
        (8, 2, 64, 512),  # slots along columns
        (3, 3, 80, 512),
        (2, 2, 256, 512),
        (8, 8, 128, 256),  # blocks of one chunk
    ],
)
def test_shapes(H, G, K, S, dtype):
    lengths = [0, S, 65, S - 1, 100]
    tolerance = 2e-6 if dtype == jnp.float32 else 2e-2
    arguments = given(lengths, H, G, K, S, dtype, alibi=True)
    ours = assert_equals_xla(arguments, tolerance=tolerance)
    exact = in_xla(*given(lengths, H, G, K, S, alibi=True))
    np.testing.assert_allclose(ours, exact, rtol=0, atol=2 * tolerance)


@pytest.mark.parametrize(
    ("H", "G", "K", "layers", "dtype", "window"),
    [
        (4, 2, 128, 3, jnp.float32, 130),
        (8, 2, 64, 3, jnp.bfloat16, 0),
        (4, 4, 128, 0, jnp.bfloat16, 130),
        (3, 3, 96, 3, jnp.float32, 0),
    ],
)
def test_an_int8_cache(H, G, K, layers, dtype, window):
    tolerance = 4e-6 if dtype == jnp.float32 else 2e-2
    exact = given([300, 0, 512, 129, 1], H, G, K, dtype=dtype, layers=layers, alibi=True)
    ours = assert_equals_xla(in_int8(*exact), window, tolerance)
    error = np.abs(ours - np.asarray(in_xla(*exact, window), np.float32))
    assert (1e-4 if dtype == jnp.float32 else 0) < error.max() < 0.1


def test_several_blocks_of_several_chunks():
    """Two heads of 128: blocks of two chunks of 128 in float32, so a row of 1,100 has five."""
    assert_equals_xla(given([1100, 0, 1280, 257, 512], S=1280, alibi=True))


def test_a_cache_of_one_layer():
    assert_equals_xla(given([17, 431, 220, 64, 389, 1, 500], layers=0))


def test_a_token_that_does_not_attend_to_itself():
    """Its key is masked, as by a caller's attention_mask."""
    past, q, k, v, mask, slopes = given([17, 431, 220, 64, 389, 1, 500])
    segments = jnp.asarray([[1], [0]] * 3 + [[1]], jnp.int32)
    positions = mask.query_positions
    ones = jnp.ones_like(segments)
    mask = AttentionMask(positions, ones, positions, segments, mask.past)
    own = assert_equals_xla((past, q, k, v, mask, slopes))
    assert np.abs(own - assert_equals_xla(given([17, 431, 220, 64, 389, 1, 500]))).max() > 0.01


def test_a_row_may_hold_fewer_tokens_than_its_position():
    """A row that has ended holds none, wherever its position is."""
    past, q, k, v, mask, _ = given([17, 431, 220, 64, 389, 1, 500], alibi=True)
    held = mask.past.lengths.at[1].set(0).at[2].set(50)
    mask = AttentionMask(*jax.tree.leaves(mask)[:4], PastTokens(held))
    assert_equals_xla((past, q, k, v, mask, jnp.asarray(alibi_slopes(4))))
    ended = assert_equals_xla((past, q, k, v, mask, jnp.asarray(alibi_slopes(4))), window=60)
    np.testing.assert_allclose(ended[1, 0], v[1, :, 0].repeat(2, axis=0), atol=1e-6)


@pytest.mark.parametrize(("H", "G"), [(4, 4), (4, 2), (4, 1)])
@pytest.mark.parametrize("layers", [0, 3])
def test_a_mesh_computes_what_one_device_does(H, G, layers):
    """One key head cannot be sharded over two devices: each then has all heads."""
    past, *others = given([300, 0, 512, 129], H, G, layers=layers, alibi=True)
    with jax.set_mesh(make_mesh(2, 2, 2)), nn.logical_axis_rules(LogicalRules().flax_rules()):
        ours = jax.jit(lambda past, *x: ragged_decode(past, *x, 200))(past, *others)
    assert len(ours.sharding.device_set) == 8
    np.testing.assert_allclose(ours, in_xla(past, *others, window=200), rtol=0, atol=2e-6)


def test_a_mesh_divides_an_int8_cache():
    past, *others = in_int8(*given([300, 0, 512, 129], alibi=True))
    with jax.set_mesh(make_mesh(2, 2, 2)), nn.logical_axis_rules(LogicalRules().flax_rules()):
        ours = jax.jit(ragged_decode)(past, *others)
    assert ours.sharding.spec[0] == ("data", "fsdp")
    np.testing.assert_allclose(ours, in_xla(past, *others), rtol=0, atol=4e-6)


def test_rows_that_the_mesh_does_not_divide():
    past, *others = given([300, 0, 512])
    with jax.set_mesh(make_mesh(2, 2, 2)), nn.logical_axis_rules(LogicalRules().flax_rules()):
        ours = jax.jit(ragged_decode)(past, *others)
    np.testing.assert_allclose(ours, in_xla(past, *others), rtol=0, atol=2e-6)


@pytest.mark.parametrize(
    ("change", "suitable"),
    [
        ({}, True),
        ({"K": 64}, True),
        ({"K": 100}, False),  # rows of a tile
        ({"K": 192}, False),  # neither whole columns nor one column of tiles
        ({"S": 320}, True),
        ({"S": 320, "K": 64}, False),  # slots along columns, which are tiles of 128
        ({"S": 200}, False),
        ({"dtype": jnp.float16}, False),
        ({"cached": jnp.int8}, True),
        ({"cached": jnp.int8, "K": 64}, True),
        ({"cached": jnp.int8, "K": 80}, False),  # tiles of int8 have more rows
        ({"cached": jnp.int8, "S": 320}, False),  # the slots of scales are along columns
        ({"G": 512, "H": 512}, True),
        ({"G": 512, "H": 512, "dtype": jnp.float32}, False),  # a chunk of 16 slots is too large
    ],
)
def test_what_suits(change, suitable):
    sizes = {"H": 4, "G": 2, "K": 128, "S": 512, "dtype": jnp.bfloat16} | change
    B, H, G, K, S = 2, *(sizes[name] for name in "HGKS")
    leaf = jax.ShapeDtypeStruct((3, B, G, S, K), sizes.get("cached", sizes["dtype"]))
    past = Past({"k": leaf, "v": leaf}, jnp.asarray(0))
    q = jax.ShapeDtypeStruct((B, 1, H, K), sizes["dtype"])
    held = jnp.zeros(B, jnp.int32)
    mask = self_attention_mask(held[:, None], held[:, None], PastTokens(held))
    assert suits(past, q, mask) == suitable
    assert not suits(past, jax.ShapeDtypeStruct((B, 2, H, K), q.dtype), mask)
    gathered = self_attention_mask(held[:, None], held[:, None], PastTokens(held, held))
    assert not suits(past, q, gathered)
    other = jnp.float32 if q.dtype != jnp.float32 else jnp.bfloat16
    if "cached" not in sizes:
        assert not suits(past, jax.ShapeDtypeStruct(q.shape, other), mask)


def test_chunks_and_blocks_fit_a_kernel_s_memory():
    """Two buffers each of keys and values take at most half of 16 MB."""
    for G in (1, 4, 8, 32, 112):
        for dtype in (jnp.bfloat16, jnp.float32):
            keys = jax.ShapeDtypeStruct((2, 8, G, 2048, 128), dtype)
            chunk = kernel._chunk(keys)
            assert 4 * G * chunk * 128 * keys.dtype.itemsize <= 8 << 20
