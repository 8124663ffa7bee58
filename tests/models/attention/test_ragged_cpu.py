"""The loop over rows and blocks against attention to all slots."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from owl_jax.models.attention import xla
from owl_jax.models.attention.dispatch import attend
from owl_jax.models.attention.mask import PastTokens, self_attention_mask
from owl_jax.models.attention.ragged_cpu import is_faster, ragged
from owl_jax.models.cache import Past
from owl_jax.models.int8_cache import quantize, scale_of

LENGTHS = [0, 1, 63, 64, 65, 130, 255]
H, K, S = 4, 8, 256


def drawn(key_heads, num_rows):
    random = np.random.default_rng(0)
    q = random.normal(size=(len(LENGTHS), H, K)).astype(np.float32)
    k, v = random.normal(size=(2, num_rows, key_heads, S, K)).astype(np.float32)
    return q, {"k": k, "v": v}


@pytest.mark.parametrize("window", [0, 1, 70])
@pytest.mark.parametrize("alibi", [False, True])
@pytest.mark.parametrize("key_heads", [4, 2])
@pytest.mark.parametrize("rows", [None, [8, 0, 3, 1, 2, 7, 5]])
def test_it_equals_attention_to_all_slots(rows, key_heads, alibi, window):
    q, cached = drawn(key_heads, len(LENGTHS) if rows is None else 9)
    past = PastTokens(jnp.asarray(LENGTHS), None if rows is None else jnp.asarray(rows))
    slopes = jnp.asarray([0.5, 0.25, 0.1, 0.01]) if alibi else None
    mask = self_attention_mask(past.lengths[:, None], jnp.ones((len(LENGTHS), 1), jnp.int32), past)
    forms = jax.jit(
        lambda q: (
            xla._of_past(cached, q[:, None], mask, slopes, window),
            ragged(q, cached, past, slopes, window),
        )
    )
    (expected, logsum), (context, found) = jax.tree.map(np.asarray, forms(q))
    # A window of one token is the new token alone.
    some = np.asarray(LENGTHS) > 0 if window != 1 else np.zeros(len(LENGTHS), bool)
    np.testing.assert_allclose(context[some], expected[some, 0], atol=1e-5)
    np.testing.assert_allclose(found[some], logsum[some, :, 0], atol=1e-5)
    # The others weigh nothing beside a new token.
    assert np.isfinite(context).all() and (np.asarray(found)[~some] < -1e8).all()


@pytest.mark.parametrize("key_heads", [4, 2])
def test_an_int8_cache(key_heads):
    """Either form applies the scales; both give what the widened cache gives."""
    q, exact = drawn(key_heads, len(LENGTHS))
    cached = {}
    for name, x in exact.items():
        cached[name], cached[scale_of(name)] = quantize(x)
    widened = {name: cached[name] * cached[scale_of(name)] for name in "kv"}
    past = PastTokens(jnp.asarray(LENGTHS))
    slopes = jnp.asarray([0.5, 0.25, 0.1, 0.01])
    mask = self_attention_mask(past.lengths[:, None], jnp.ones((len(LENGTHS), 1), jnp.int32), past)
    expected, expected_logsum = xla._of_past(widened, q[:, None], mask, slopes, 0)
    whole, whole_logsum = xla._of_past(cached, q[:, None], mask, slopes, 0)
    context, logsum = ragged(q, cached, past, slopes, 0)
    for found in (whole[1:, 0], context[1:]):  # the first row is empty
        np.testing.assert_allclose(found, expected[1:, 0], atol=1e-5)
    for found in (whole_logsum[1:, :, 0], logsum[1:]):
        np.testing.assert_allclose(found, expected_logsum[1:, :, 0], atol=1e-5)


@pytest.mark.parametrize("lengths", [[30, 0], [500, 511]])
def test_either_form_gives_the_same_whole(lengths, monkeypatch):
    """Short rows take the loop, long ones do not; both merge with the new token's key."""
    random = np.random.default_rng(1)
    q = random.normal(size=(2, 1, H, K)).astype(np.float32)
    k, v = random.normal(size=(2, 2, 2, 1, K)).astype(np.float32)
    cache = {name: random.normal(size=(2, 2, 512, K)).astype(np.float32) for name in "kv"}
    past = PastTokens(jnp.asarray(lengths))
    assert is_faster(past, 512) == (lengths[0] < 100)
    mask = self_attention_mask(past.lengths[:, None], jnp.ones((2, 1), jnp.int32), past)

    def run():
        return jax.jit(lambda q: attend(q, k, v, mask, past=Past(cache, None)))(q)

    found = run()
    monkeypatch.setattr(xla, "_MIN_RAGGED_SLOTS", 1024)
    np.testing.assert_allclose(found, run(), atol=1e-5)
