import jax
import jax.numpy as jnp
import numpy as np
import pytest

from owl_jax.errors import UserError
from owl_jax.inference.sampling import Sampling, keep_likely, sample

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
    ],
)
def test_wrong_settings(settings, named):
    with pytest.raises(UserError, match=named):
        Sampling.of(**settings)
