"""The slopes of ALiBi. The rest of BLOOM is compared with the original in test_owl.py."""

import numpy as np
import pytest

from owl_jax.models.language.bloom import alibi_slopes


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
