"""Splicing media vectors into token embeddings, with literal arrays."""

import jax.numpy as jnp
import numpy as np

from owl_jax.models.splice import splice


def test_each_token_takes_its_vector():
    text = jnp.asarray([[[1.0, 1.0], [2.0, 2.0], [3.0, 3.0]], [[4.0, 4.0], [5.0, 5.0], [6.0, 6.0]]])
    # Two sequences with two slots of two vectors.
    media = jnp.asarray(
        [
            [[10.0, 11.0], [12.0, 13.0], [20.0, 21.0], [22.0, 23.0]],
            [[30.0, 31.0], [32.0, 33.0], [40.0, 41.0], [42.0, 43.0]],
        ]
    )
    index = jnp.asarray([[-1, 2, 3], [1, -1, 0]])
    np.testing.assert_array_equal(
        splice(text, media, index),
        [[[1, 1], [20, 21], [22, 23]], [[32, 33], [5, 5], [30, 31]]],
    )


def test_text_keeps_its_dtype():
    text, media = jnp.zeros((1, 2, 2), jnp.bfloat16), jnp.ones((1, 1, 2))
    assert splice(text, media, jnp.asarray([[-1, 0]])).dtype == jnp.bfloat16
