"""ALiBi. The rest of BLOOM is compared with the original in test_owl.py."""

import jax.numpy as jnp
import numpy as np
import pytest

from owl_jax.models.attention import whole_rows
from owl_jax.models.bloom import alibi_bias, alibi_slopes


@pytest.mark.parametrize(
    ("heads", "slopes"),
    [
        # arXiv 2108.12409, section 3: 1/2 to 1/256 for eight heads.
        (8, [1 / 2, 1 / 4, 1 / 8, 1 / 16, 1 / 32, 1 / 64, 1 / 128, 1 / 256]),
        (4, [1 / 4, 1 / 16, 1 / 64, 1 / 256]),
        # The authors' rule for other numbers: the slopes of 4 heads, then every other one of 8.
        (6, [1 / 4, 1 / 16, 1 / 64, 1 / 256, 1 / 2, 1 / 8]),
    ],
)
def test_slopes_are_the_published_ones(heads, slopes):
    np.testing.assert_allclose(alibi_slopes(heads), slopes, rtol=1e-6)


def test_bias_counts_positions_of_the_conversation_not_slots():
    positions = jnp.asarray([[0, 1, 0, 1]], jnp.int32)
    bias = alibi_bias(8, whole_rows(positions, jnp.asarray([[1, 1, 2, 2]], jnp.int32)))
    assert bias.shape == (1, 8, 4, 4)
    assert bias.dtype == jnp.float32
    np.testing.assert_allclose(bias[0, 0, 1], [-0.5, 0, -0.5, 0])
    np.testing.assert_allclose(bias[0, 1, 3], [-0.25, 0, -0.25, 0])
