import numpy as np
import pytest

from owl_jax.errors import UserError
from owl_jax.inference.arguments import boolean, real_number, whole_number


@pytest.mark.parametrize("value", [5, np.int64(5), np.uint8(5), np.array(5)])
def test_whole_numbers(value):
    assert whole_number(value, "n", 1) == 5


@pytest.mark.parametrize(
    "value",
    [
        True,
        np.True_,
        "5",
        5.0,
        2.5,
        None,
        [5],
        np.float32(5),
        np.ones(2, int),
        0,
        -3,
        9,
        pytest.param(10**30000, id="huge"),
    ],
)
def test_other_whole_numbers_are_refused_in_one_line(value):
    with pytest.raises(UserError, match=r"^n is ") as caught:
        whole_number(value, "n", 1, 8)
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize("value", [0.5, np.float32(0.5), np.array(0.5)])
def test_real_numbers(value):
    assert real_number(value, "x", "a number") == 0.5


@pytest.mark.parametrize("value", [True, "0.5", None, [0.5], 10**400, 1j])
def test_other_real_numbers_are_refused_in_one_line(value):
    with pytest.raises(UserError, match=r"^x is .*expected a number"):
        real_number(value, "x", "a number")


def test_truth():
    assert boolean(np.True_, "t") is True
    for value in ("yes", 1, None):
        with pytest.raises(UserError, match=r"^t is .*True or False"):
            boolean(value, "t")
