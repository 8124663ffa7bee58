import pytest

from owl_jax.aot.topology import open_topology, parse
from owl_jax.errors import UserError

FORM = "expected one of v4, v5e, v5p, v6e and a shape, as in v5e:8x8"
FLAT = "is sold as 1x1, 2x2, 2x4, 4x4, 4x8, 8x8, 8x16, 16x16; write one as in "
SOLID = (
    "is sold as 2x2x1, 2x2x2, 2x2x4, 2x4x4, and sides that are multiples of 4, in ascending order"
)


@pytest.mark.parametrize("name", ["v9:2x2", "V5E:8x8", "v5litepod-64", "8x8", ""])
def test_a_name_without_a_chip_is_told_the_form(name):
    with pytest.raises(UserError, match=f"topology {name!r}: {FORM}"):
        parse(name)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("v5e", FLAT + "v5e:8x8"),
        ("v5e:", FLAT),
        ("v5e:0x2", FLAT),
        ("v5e:2x2x2", FLAT),
        ("v5e:7x9", FLAT),
        ("v5e:2x6", FLAT),
        ("v5e:4x2", FLAT),
        ("v5e:16x32", FLAT),
        ("v5e:32x32", FLAT),
        ("v5e:64x64", FLAT),
        ("v6e:32x32", FLAT + "v6e:8x8"),
        ("v5p:8x8", SOLID),
        ("v5p:3x3x3", SOLID),
        ("v5p:8x4x4", SOLID),
        ("v5p:2x2x8", SOLID),
        ("v5p:16x20x20", SOLID + ", up to 6,144 chips; write one as in v5p:4x4x4"),
        ("v5p:100x100x100", SOLID),
        ("v4:4x4x" + "4" * 5000, SOLID),
        ("v4:16x16x24", SOLID + ", up to 4,096 chips; write one as in v4:4x4x4"),
        ("v4:64x64x64", SOLID),
        ("v4:4x4x32", SOLID),
        ("v5p:4x4x32", SOLID),
    ],
)
def test_a_shape_that_nobody_sells_is_refused(name, message):
    """Before libtpu is asked, which ends the process at some of them."""
    with pytest.raises(UserError, match=message):
        open_topology(name)


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("v5e:1x1", (1, 1)),
        ("v5e:16x16", (16, 16)),
        ("v6e:8x16", (8, 16)),
        ("v4:2x2x1", (2, 2, 1)),
        ("v4:16x16x16", (16, 16, 16)),
        ("v5p:2x2x2", (2, 2, 2)),
        ("v5p:4x8x12", (4, 8, 12)),
        ("v5p:16x16x24", (16, 16, 24)),
    ],
)
def test_shapes_that_are_sold(name, shape):
    chip, found = parse(name)
    assert (chip.name, found) == (name.partition(":")[0], shape)


@pytest.mark.parametrize("slices", [0, 100_000])
def test_slices_that_nobody_has_are_refused(slices):
    with pytest.raises(UserError, match=f"{slices} slices: expected 1 to 256"):
        open_topology("v5e:8x8", slices)
