import re

import numpy as np
import pytest

from owl_jax.pages.axes import BOTTOM, LEFT, RIGHT, TOP
from owl_jax.pages.histogram import Mark, histogram


def bars(svg):
    """Start and count of each bar as its title says, and its place: x, y, width, height."""
    pattern = (
        r'<rect class="bar" x="([\d.]+)" y="([\d.]+)" width="([\d.]+)" height="([\d.]+)">'
        r"<title>from ([\d.,]+): ([\d,]+)</title></rect>"
    )
    found = re.findall(pattern, svg)
    counts = {float(start.replace(",", "")): int(n.replace(",", "")) for *_, start, n in found}
    return counts, np.array([place for *place, _, _ in found], float)


def test_values_are_counted():
    values = [0, 1, 1, 4.5, 9.9, 10, 19, 20]
    counts, _ = bars(histogram("Lengths", values, "tokens", end=20, width=10))
    assert counts == {0: 5, 10: 3}
    counts, _ = bars(histogram("Lengths", values, "tokens", width=10))
    assert counts == {0: 5, 10: 2, 20: 1}


def test_bars_stand_where_their_values_are_and_are_as_high_as_their_counts():
    svg = histogram("Lengths", [5] * 10 + [25] * 5, "tokens", end=40, width=10)
    _, places = bars(svg)
    x, y, width, height = places.T
    quarter = (RIGHT - LEFT) / 4
    np.testing.assert_allclose(x - 0.5, [LEFT, LEFT + 2 * quarter], atol=0.1)
    np.testing.assert_allclose(width + 1, quarter, atol=0.1)
    np.testing.assert_allclose(height, [BOTTOM - TOP, (BOTTOM - TOP) / 2], atol=0.1)
    np.testing.assert_allclose(y + height, BOTTOM, atol=0.1)


def test_the_last_bar_holds_what_is_beyond_the_end_and_says_so():
    svg = histogram("Lengths", [5, 35, 1e6], "tokens", end=40, width=10)
    assert bars(svg)[0] == {0: 1, 30: 2}
    assert "tokens (last bar: 30 and more)" in svg
    assert "and more" not in histogram("Lengths", [5, 40], "tokens", end=40, width=10)


@pytest.mark.parametrize(
    ("largest", "width"), [(3, 1), (30, 1), (31, 2), (280, 10), (2048, 100), (100_000, 5000)]
)
def test_the_width_of_bars_is_round(largest, width):
    values = np.arange(largest + 1)
    counts, _ = bars(histogram("Lengths", values, "tokens"))
    assert list(counts) == list(range(0, largest + 1, width))
    assert sum(counts.values()) == largest + 1


def test_marks_stand_at_their_values_and_in_the_legend():
    marks = [Mark("median", 10, "10"), Mark("row <L>", 40, "4 & 0")]
    svg = histogram("Lengths", [10, 20], "tokens", marks=marks, width=10)
    found = re.findall(rf'<path class="mark" style="([^"]*)" d="M([\d.]+) {TOP}V{BOTTOM}"/>', svg)
    places = [float(x) for _, x in found]
    # The axis reaches to the larger mark, and its bar.
    np.testing.assert_allclose(places, LEFT + (RIGHT - LEFT) * np.array([0.2, 0.8]), atol=0.1)
    assert len({style for style, _ in found}) == 2
    assert "median 10</span>" in svg and "row &lt;L&gt; 4 &amp; 0</span>" in svg


def test_said_in_words_for_who_cannot_see_it():
    svg = histogram('"L"', [3, 1500], "tokens", marks=[Mark("median", 5, "5")])
    assert 'aria-label="&quot;L&quot;: 2 values from 3 to 1,500; median 5"' in svg


def test_nothing_to_show():
    assert "No values." in histogram("Lengths", [], "tokens")


def test_zeros_alone():
    assert bars(histogram("Lengths", [0, 0], "tokens"))[0] == {0: 2}
