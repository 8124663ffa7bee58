"""The ragged decode kernel, compiled for a TPU that is not there."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from owl_jax.models.attention.dispatch import attend
from owl_jax.models.attention.mask import PastTokens, self_attention_mask
from owl_jax.models.cache import past_of, write_tokens
from owl_jax.models.int8_cache import cached_form
from owl_jax.parallel.mesh import make_mesh
from owl_jax.parallel.sharding import on_mesh

LAYERS, B, S = 4, 64, 1024


@pytest.mark.parametrize(
    ("H", "G", "K", "dtype", "window", "alibi", "cache_dtype"),
    [
        (4, 4, 128, jnp.bfloat16, 0, False, "auto"),
        (32, 8, 128, jnp.bfloat16, 300, False, "auto"),
        (32, 32, 128, jnp.bfloat16, 0, True, "auto"),
        (12, 1, 128, jnp.float32, 0, True, "auto"),
        (16, 16, 64, jnp.bfloat16, 0, True, "auto"),
        (8, 2, 64, jnp.float32, 300, False, "auto"),
        (4, 4, 128, jnp.bfloat16, 0, False, "int8"),
        (32, 8, 128, jnp.float32, 300, True, "int8"),
        (16, 16, 64, jnp.bfloat16, 0, True, "int8"),
    ],
)
def test_decoding_copies_no_cache(open_topology, H, G, K, dtype, window, alibi, cache_dtype):
    """A scan over layers that reads the stacked cache, then writes to it."""
    mesh = make_mesh(devices=open_topology("v5e:2x2").devices[:1])
    shard = NamedSharding(mesh, PartitionSpec())

    def shaped(*shape, dtype=dtype):
        return jax.ShapeDtypeStruct(shape, dtype, sharding=shard)

    slopes = jnp.asarray(np.linspace(0.1, 0.5, H), jnp.float32) if alibi else None

    def decode(cache, lengths, q, k, v):
        ones = jnp.ones((B, 1), jnp.int32)
        mask = self_attention_mask(lengths[:, None], ones, PastTokens(lengths))

        def layer(x, number):
            past = past_of(cache, number)
            y = attend(x, k, v, mask, slopes, "auto", past, window)
            return y, cached_form(k + y[:, :, :G].swapaxes(1, 2), v, cache_dtype)[2]

        x, new = jax.lax.scan(layer, q, jnp.arange(LAYERS))
        written = (x[:, 0, 0, 0] > -1e9)[:, None, None, None]
        new = jax.tree.map(lambda leaf: jnp.where(written, leaf, 0), new)
        return write_tokens(cache, new, None, lengths), x

    one = shaped(1, G, 1, K)
    stored = jax.eval_shape(partial(cached_form, cache_dtype=cache_dtype), one, one)[2]
    cache = {
        name: shaped(LAYERS, B, G, S, leaf.shape[3], dtype=leaf.dtype)
        for name, leaf in stored.items()
    }
    given = shaped(B, dtype=jnp.int32), shaped(B, 1, H, K), shaped(B, G, 1, K), shaped(B, G, 1, K)
    with on_mesh(mesh, B):
        compiled = jax.jit(decode, donate_argnums=0).lower(cache, *given).compile()
    text = compiled.as_text()
    is_narrow = K < 128 or cache_dtype == "int8"  # then keys, or scales, lie along columns
    names = ["ragged_decode", "write_columns"] if is_narrow else ["ragged_decode"]
    assert text.count('custom_call_target="tpu_custom_call"') == len(names)
    assert all(f"{name}/pallas_call" in text for name in names)
    memory = compiled.memory_analysis()
    size = sum(leaf.size * leaf.dtype.itemsize for leaf in cache.values())
    assert memory.temp_size_in_bytes < 0.01 * size
    assert size <= memory.alias_size_in_bytes < 1.01 * size
