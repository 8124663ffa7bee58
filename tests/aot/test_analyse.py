import pytest
from small_hlo import TEXT

from owl_jax.aot.analyse import largest_arrays, slowest_operations
from owl_jax.aot.hlo import parse
from owl_jax.aot.runs import count_runs
from owl_jax.aot.summary import LargeArrays
from owl_jax.parallel.chips import CHIPS


def test_the_largest_arrays_with_what_writes_them():
    """A loop's state is no array of its own, and what lies on the chip is not in memory."""
    first, second = largest_arrays(count_runs(parse(TEXT)))
    assert first == LargeArrays(1, 8 * 4 * 4, "f32[8,4]", ("mlp/dot_general",))
    assert (second.type, second.origins) == ("s32[]", ("made by the compiler",))


def test_what_a_loop_hands_on_is_there_at_once():
    """Three of a type in the state of a loop; a fourth is written and let go."""
    text = TEXT
    for old, new in (
        ("(s32[], f32[8,4]", "(s32[], f32[8,4], f32[8,4], f32[8,4]"),
        ("tuple(%zero.4, %fusion.1)", "tuple(%zero.4, %fusion.1, %fusion.1, %fusion.1)"),
    ):
        text = text.replace(old, new)
    assert largest_arrays(count_runs(parse(text)))[0].count == 3


def test_the_slowest_operations_times_their_runs():
    """Three thousand cycles, five times; a collective's time is not the chip's."""
    (seconds, place), *others = slowest_operations(count_runs(parse(TEXT)), CHIPS["v5e"])
    assert place == "mlp/dot_general"
    assert seconds == pytest.approx(5 * 3000 / CHIPS["v5e"].clock)
    assert all(seconds == 0 for seconds, _ in others)
