import jax
import jax.numpy as jnp
import numpy as np
import pytest

from owl_jax.errors import UserError
from owl_jax.inference.sampling import Sampling, keep_likely, random_key, sample

PROBABILITIES = np.array([0.05, 0.4, 0.15, 0.3, 0.1])
DRAWS = 20_000


def frequencies(**settings):
    """How often each of the five tokens is drawn."""
    logits = jnp.tile(jnp.log(PROBABILITIES), (DRAWS, 1))
    drawn = sample(logits, jax.random.split(jax.random.key(1), DRAWS), Sampling.of(**settings))
    return np.bincount(drawn, minlength=5) / DRAWS


def kept(logits, top_k=None, top_p=None):
    return [np.flatnonzero(np.isfinite(row)).tolist() for row in keep_likely(logits, top_k, top_p)]


def test_greedy_takes_the_likeliest_whatever_the_other_settings():
    logits = jnp.log(jnp.stack([PROBABILITIES, PROBABILITIES[::-1]]))
    keys = jax.random.split(jax.random.key(0), 2)
    for settings in (Sampling.of(), Sampling.of(0.0, top_k=3, top_p=0.5)):
        assert sample(logits, keys, settings).tolist() == [1, 3]


def test_temperature_sharpens_and_flattens():
    np.testing.assert_allclose(frequencies(temperature=1.0), PROBABILITIES, atol=0.01)
    for temperature in (0.5, 2.0):
        expected = PROBABILITIES ** (1 / temperature)
        np.testing.assert_allclose(
            frequencies(temperature=temperature), expected / expected.sum(), atol=0.01
        )


def test_top_k_then_top_p_renormalise():
    expected = np.where(PROBABILITIES >= 0.15, PROBABILITIES, 0)
    np.testing.assert_allclose(
        frequencies(temperature=1.0, top_k=3), expected / expected.sum(), atol=0.01
    )
    # Of the three that top_k leaves, 0.4 and 0.3 are 0.82 of the whole; of all five only 0.7.
    expected = np.where(PROBABILITIES >= 0.3, PROBABILITIES, 0)
    np.testing.assert_allclose(
        frequencies(temperature=1.0, top_k=3, top_p=0.8), expected / expected.sum(), atol=0.01
    )


def test_exact_support():
    logits = jnp.log(jnp.stack([PROBABILITIES, np.array([0.9, 0.04, 0.03, 0.02, 0.01])]))
    assert kept(logits, top_k=1) == [[1], [0]]
    assert kept(logits, top_k=2) == [[1, 3], [0, 1]]
    assert kept(logits, top_k=100) == [[0, 1, 2, 3, 4]] * 2
    assert kept(logits, top_p=0.01) == [[1], [0]]
    # The token that reaches the probability is kept, the next is not.
    assert kept(logits, top_p=0.69) == [[1, 3], [0]]
    assert kept(logits, top_p=0.71) == [[1, 2, 3], [0]]
    assert kept(logits, top_p=1.0) == [[0, 1, 2, 3, 4]] * 2
    assert kept(logits, top_k=3, top_p=0.8) == [[1, 3], [0]]
    assert kept(logits, top_p=0.8) == [[1, 2, 3], [0]]


def test_rows_draw_from_their_own_keys():
    logits = jnp.zeros((3, 1000))
    a, b = jax.random.split(jax.random.key(5))
    drawn = sample(logits, jnp.stack([a, b, a]), Sampling.of(1.0))
    assert drawn[0] == drawn[2] != drawn[1]


def test_numbers_do_not_recompile():
    traces = []

    @jax.jit
    def draw(logits, keys, settings):
        traces.append(settings)
        return sample(logits, keys, settings)

    logits, keys = jnp.zeros((1, 5)), jax.random.split(jax.random.key(0), 1)
    for temperature, top_k, top_p in ((0.7, 2, 0.9), (1.3, 4, 0.5), (1.0, 5, 1.0)):
        draw(logits, keys, Sampling.of(temperature, top_k, top_p))
    assert len(traces) == 1


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"temperature": -1.0}, "temperature is -1.0"),
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"temperature": 1.0, "top_k": 0}, "top_k is 0"),
        ({"temperature": 1.0, "top_p": 0.0}, "top_p is 0.0"),
        ({"top_p": 1.5}, "top_p is 1.5"),
        ({"temperature": float("inf")}, "temperature is inf"),
        ({"temperature": True}, "temperature is True"),
        ({"temperature": "hot"}, "temperature is 'hot'"),
        ({"temperature": None}, "temperature is None"),
        ({"top_p": float("nan")}, "top_p is nan"),
        ({"top_p": "0.9"}, "top_p is '0.9'"),
        ({"top_k": True}, "top_k is True"),
        ({"top_k": 2.0}, "top_k is 2.0"),
        ({"top_k": -(10**30)}, "top_k is -1000"),
    ],
)
def test_wrong_settings(settings, named):
    with pytest.raises(UserError, match=named):
        Sampling.of(**settings)


def test_numbers_that_float32_and_int32_do_not_hold_mean_what_they_say():
    everything = frequencies(temperature=1.0)
    np.testing.assert_array_equal(frequencies(temperature=1.0, top_k=10**12), everything)
    np.testing.assert_array_equal(
        frequencies(temperature=np.float32(1), top_k=np.int8(5)), everything
    )
    for settings in ({"temperature": 1e-300}, {"temperature": 1.0, "top_p": 1e-300}):
        assert frequencies(**settings)[1] == 1
    np.testing.assert_allclose(frequencies(temperature=1e300), 0.2, atol=0.01)


def test_every_seed_has_its_own_key():
    seeds = (0, 1, 2**32 - 1, 2**32, 2**32 + 1, 2**40, 2**63 - 1, np.int64(7))
    assert len({tuple(jax.random.key_data(random_key(seed)).tolist()) for seed in seeds}) == 8
    np.testing.assert_array_equal(
        jax.random.key_data(random_key(5)), jax.random.key_data(jax.random.key(5))
    )
    for seed in (-1, 2**63, 10**30, 1.0, "1", True, None):
        with pytest.raises(UserError, match="seed is "):
            random_key(seed)
