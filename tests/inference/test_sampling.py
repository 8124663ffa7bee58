import jax
import jax.numpy as jnp
import numpy as np
import pytest

from owl_jax.errors import UserError
from owl_jax.inference.sampling import (
    Sampling,
    SamplingRows,
    keep_likely,
    penalize,
    random_key,
    sample,
)

PROBABILITIES = np.array([0.05, 0.4, 0.15, 0.3, 0.1])
DRAWS = 20_000


def frequencies(**settings):
    """How often each of the five tokens is drawn."""
    logits = jnp.tile(jnp.log(PROBABILITIES), (DRAWS, 1))
    keys = jax.random.split(jax.random.key(1), DRAWS)
    drawn = draw(logits, keys, [Sampling.of(**settings)] * DRAWS)
    return np.bincount(drawn, minlength=5) / DRAWS


def draw(logits, keys, settings):
    counts = jnp.zeros(len(logits), jnp.int32)
    return sample(logits, SamplingRows.of(settings, keys), counts)


def kept(logits, top_k=None, top_p=None):
    rows = len(logits)
    top_k, top_p = np.full(rows, top_k or 2**31 - 1), np.full(rows, top_p or 1.0, np.float32)
    return [np.flatnonzero(np.isfinite(row)).tolist() for row in keep_likely(logits, top_k, top_p)]


def test_greedy_takes_the_likeliest_whatever_the_other_settings():
    logits = jnp.log(jnp.stack([PROBABILITIES, PROBABILITIES[::-1]]))
    keys = jax.random.split(jax.random.key(0), 2)
    for settings in (Sampling.of(), Sampling.of(0.0, top_k=3, top_p=0.5)):
        assert draw(logits, keys, [settings] * 2).tolist() == [1, 3]


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
    drawn = draw(logits, jnp.stack([a, b, a]), [Sampling.of(1.0)] * 3)
    assert drawn[0] == drawn[2] != drawn[1]


def test_each_token_of_a_row_draws_anew():
    settings = SamplingRows.of([Sampling.of(1.0)] * 2, jax.random.split(jax.random.key(5)))
    drawn = [sample(jnp.zeros((2, 1000)), settings, jnp.full(2, n)).tolist() for n in (0, 1, 0)]
    assert drawn[0] == drawn[2]
    assert drawn[0][0] != drawn[1][0] and drawn[0][1] != drawn[1][1]


def test_each_row_has_its_own_settings():
    """Greedy, top_k of 1, one token by top_p, and all tokens, in one batch."""
    logits = jnp.tile(jnp.log(PROBABILITIES), (4 * DRAWS, 1))
    settings = [Sampling.of(), Sampling.of(9.0, 1), Sampling.of(1.0, None, 0.4), Sampling.of(2.0)]
    drawn = draw(logits, jax.random.split(jax.random.key(1), 4 * DRAWS), settings * DRAWS)
    rows = np.asarray(drawn).reshape(DRAWS, 4)
    assert (rows[:, :3] == 1).all()
    expected = PROBABILITIES**0.5
    np.testing.assert_allclose(
        np.bincount(rows[:, 3], minlength=5) / DRAWS, expected / expected.sum(), atol=0.01
    )


def test_thresholds_equal_those_of_a_sort():
    """Random rows, with ties and with logits of -inf."""
    random = np.random.default_rng(0)
    logits = np.round(random.normal(0, 3, (50, 40)), 1).astype(np.float32)
    logits[random.random(logits.shape) < 0.1] = -np.inf
    top_k = random.integers(1, 45, 50).astype(np.int32)
    top_p = random.uniform(0.05, 1, 50).astype(np.float32)
    result = np.asarray(keep_likely(logits, top_k, top_p))
    for row, k, p, found in zip(logits.astype(np.float64), top_k, top_p, result, strict=True):
        order = np.sort(row)[::-1]
        row = np.where(row >= order[min(k, 40) - 1], row, -np.inf)
        probabilities = np.exp(row - row.max()) / np.exp(row - row.max()).sum()
        ranked = np.sort(probabilities)[::-1]
        least = ranked[np.searchsorted(ranked.cumsum(), p - 1e-6)]
        expected = np.where(probabilities >= least, row, -np.inf)
        np.testing.assert_allclose(found, expected)


def test_penalties_are_those_of_their_definitions():
    logits = jnp.asarray([[2.0, -2.0, 2.0, -2.0, 1.0]] * 2)
    settings = SamplingRows.of(
        [Sampling.of(0.0, None, None, 2.0, 0.5, 0.25), Sampling()],
        jax.random.split(jax.random.key(0)),
    )
    in_prompt = jnp.asarray([[1, 1, 0, 0, 0]] * 2, bool)
    in_answer = jnp.asarray([[0, 0, 1, 3, 0]] * 2)
    expected = [[1.0, -4.0, 1.0 - 0.5 - 0.25, -4.0 - 0.5 - 0.75, 1.0], logits[1]]
    np.testing.assert_allclose(penalize(logits, settings, in_prompt, in_answer), expected)


def test_numbers_do_not_recompile():
    traces = []

    @jax.jit
    def draw(logits, settings, counts):
        traces.append(settings)
        return sample(logits, settings, counts)

    logits, keys = jnp.zeros((1, 5)), jax.random.split(jax.random.key(0), 1)
    for values in ((0.7, 2, 0.9), (1.3, 4, 0.5), (1.0, 5, 1.0), (0.0, None, None)):
        draw(logits, SamplingRows.of([Sampling.of(*values)], keys), jnp.zeros(1, jnp.int32))
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
        ({"repetition_penalty": 0.0}, "repetition_penalty is 0.0"),
        ({"presence_penalty": 2.5}, "presence_penalty is 2.5; expected -2 to 2"),
        ({"frequency_penalty": float("nan")}, "frequency_penalty is nan"),
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
