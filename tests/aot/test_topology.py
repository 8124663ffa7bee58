import pytest

from owl_jax.aot.topology import parse
from owl_jax.errors import UserError


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("v9:2x2", "'v9:2x2': expected one of v4, v5e, v5p, v6e and a shape, as in v5e:8x8"),
        ("v5e", "expected a shape such as v5e:4x4"),
        ("v5e:", "expected a shape such as v5e:4x4"),
        ("v5e:0x2", "expected a shape such as v5e:4x4"),
        ("v5e:2x2x2", "a slice of v5e has 2 dimensions, as in v5e:4x4"),
        ("v5p:8x8", "a slice of v5p has 3 dimensions, as in v5p:4x4x4"),
    ],
)
def test_a_name_that_is_none_is_refused(name, message):
    with pytest.raises(UserError, match=message):
        parse(name)
