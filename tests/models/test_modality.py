"""Which tokens are visual, as literal arrays: two sequences of six tokens, three vectors each."""

import jax
import jax.numpy as jnp
import numpy as np

from owl_jax.models.modality import Modality

# The second sequence leaves its last vector unused and has them in another order.
INDEX = np.array([[-1, 0, 1, 2, -1, -1], [1, -1, -1, -1, 0, -1]], np.int32)
MODALITY = Modality.of(jnp.asarray(INDEX), 3)


def test_each_vector_has_its_token_and_unused_ones_have_none():
    np.testing.assert_array_equal(MODALITY.visual, INDEX >= 0)
    tokens = np.asarray(MODALITY.tokens)
    assert tokens[0].tolist() == [1, 2, 3]
    assert tokens[1, :2].tolist() == [4, 0] and tokens[1, 2] >= 6


def test_take_and_put_are_inverse():
    x = jnp.arange(2 * 6 * 2.0).reshape(2, 6, 2) + 1
    taken = MODALITY.take(x)
    np.testing.assert_array_equal(taken[0], x[0, 1:4])
    np.testing.assert_array_equal(taken[1], [x[1, 4], x[1, 0], [0, 0]])
    put = MODALITY.put(x, -taken)
    np.testing.assert_array_equal(put, jnp.where(INDEX[:, :, None] >= 0, -x, x))


def test_gradients_reach_only_the_weights_of_a_token_s_modality():
    def total(text, visual):
        return (MODALITY.put(text, visual) * jnp.arange(1.0, 7.0)[None, :, None]).sum()

    text, visual = jax.grad(total, argnums=(0, 1))(jnp.ones((2, 6, 1)), jnp.ones((2, 3, 1)))
    np.testing.assert_array_equal(text[..., 0], np.where(INDEX < 0, np.arange(1, 7), 0))
    np.testing.assert_array_equal(visual[..., 0], [[2, 3, 4], [5, 1, 0]])
