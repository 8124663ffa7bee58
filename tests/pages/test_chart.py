"""What the drawings contain, read from their SVG."""

import html
import logging
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from owl_jax.pages.chart import Bar, Line, Mark, dot_chart, histogram, line_chart

ROOT = Path(__file__).parents[2]


def drawn(chart, name):
    """The points [n, 2] of each path with that title; y counts from the top."""
    paths = re.findall(
        rf'<title>{re.escape(html.escape(name))}</title>\s*<path d="([^"]*)"', chart.svg
    )
    return [np.array(re.findall(r"[ML] ([\d.-]+) ([\d.-]+)", path), float) for path in paths]


def labels(chart):
    """Place and text of each number on the axes: below, then beside."""
    found = re.findall(
        r'text-anchor: (\w+)[^>]* x="([\d.]+)" y="([\d.]+)"[^>]*>([^<]*)<', chart.svg
    )
    below = {text: float(x) for anchor, x, _, text in found if anchor == "middle"}
    beside = {text: float(y) for anchor, _, y, text in found if anchor == "end"}
    return below, beside


def bars(chart):
    found = re.findall(r"<title>from ([\d.,]+): ([\d,]+)</title>", chart.svg)
    return {float(start.replace(",", "")): int(n.replace(",", "")) for start, n in found}


def test_a_line_runs_through_its_values():
    chart = line_chart("Rate", [Line("a", [10, 20, 30], [1.0, 3.0, 4.0])])
    (line,) = drawn(chart, "a")
    below, beside = labels(chart)
    assert "step" in below and list(beside) == ["0", "1", "2", "3", "4"]
    np.testing.assert_allclose(line[:, 0], [below["10"], below["20"], below["30"]], atol=0.1)
    height = beside["1"] - beside["3"]
    np.testing.assert_allclose(line[0, 1] - line[:, 1], [0, height, 1.5 * height], atol=0.2)


def test_a_logarithmic_axis_leaves_out_what_it_cannot_show():
    chart = line_chart("Loss", [Line("loss", [1, 2, 3, 4], [1.0, 0.0, 0.1, 0.01])], log=True)
    (line,) = drawn(chart, "loss")
    first, second, third = line[:, 1]
    assert second - first == pytest.approx(third - second, abs=0.2)
    assert list(labels(chart)[1]) == ["0.01", "0.02", "0.05", "0.1", "0.2", "0.5", "1"]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([1e-5, 1e3], {"1e-05", "0.1", "10", "1,000"}),
        ([1e-10, 1e10], {"1e-08", "1e-05", "10"}),
        ([0.31, 0.39], {"0.32", "0.36"}),
        ([2.0, 2.0], {"2"}),
        ([1e-200, 1e200], set()),
    ],
)
def test_numbers_of_a_logarithmic_axis(values, expected):
    found = labels(line_chart("Loss", [Line("loss", [0, 1], values)], log=True))[1]
    assert expected <= set(found) and 2 <= len(found) <= 12


def test_numbers_of_the_axes():
    below, beside = labels(line_chart("Rate", [Line("a", [0, 50_000], [0.0, 2.0e-4])]))
    assert "50,000" in below and "0.0002" in beside
    assert "2,000,000" in labels(line_chart("Rate", [Line("a", [0, 1], [0, 2e6])]))[1]


def test_smoothing_is_the_mean_of_the_neighbours():
    values = np.random.default_rng(0).uniform(1, 2, 59)
    chart = line_chart("Loss", [Line("loss", range(59), values)], smooth=True)
    raw, mean = (line[:, 1] for line in drawn(chart, "loss"))
    for place, neighbours in ((20, raw[18:23]), (0, raw[:3]), (-1, raw[-3:])):
        np.testing.assert_allclose(mean[place], neighbours.mean(), atol=0.11)


def test_a_large_value_does_not_hide_the_small_ones_after_it():
    values = [1e25, *[1.0, 2.0] * 30]
    chart = line_chart("Loss", [Line("loss", range(61), values)], log=True, smooth=True)
    _, mean = drawn(chart, "loss")
    _, beside = labels(chart)
    assert abs(mean[-1, 1] - beside["1"]) < 10
    assert (mean[:, 1] < 190).all()


def test_thousands_of_points_keep_the_peak_and_little_of_the_page():
    values = np.random.default_rng(0).uniform(1, 2, 100_000)
    values[31_234] = 9
    chart = line_chart("Loss", [Line("loss", range(100_000), values)], smooth=True)
    raw, mean = drawn(chart, "loss")
    assert max(len(raw), len(mean)) <= 403 and len(chart.svg) < 40_000
    peak = raw[:, 1].argmin()
    assert raw[peak, 0] == pytest.approx(raw[0, 0] + 0.31234 * np.ptp(raw[:, 0]), abs=1)
    assert raw[peak, 1] == pytest.approx(labels(chart)[1]["8"] - 4 - np.ptp(raw[:, 1]) / 8, abs=3)


def test_several_lines_have_names_and_differ_by_dashes():
    names = ["a & <b>", "c", "_$d$", "年"]  # which matplotlib would hide, typeset or warn of
    chart = line_chart("Rate", [Line(name, [1, 2], [1.0, 2.0]) for name in names])
    for name in names:
        assert f">{html.escape(name)}</text>" in chart.svg
    assert len(set(re.findall(r"var\(--lines-\d\)", chart.svg))) == 4
    assert len(set(re.findall(r"stroke-dasharray: [^;]*", chart.svg))) == 3
    assert ">a</text>" not in line_chart("Rate", [Line("a", [1], [1.0])]).svg


def test_names_that_no_file_takes_are_written_as_escapes():
    chart = line_chart("\ud800", [Line("a\0\ud800", [1, 2], [1.0, 2.0])] * 2)
    assert chart.svg.count(">a\\x00\\ud800</") == 4


def test_a_single_value_is_a_dot():
    chart = line_chart("Rate", [Line("a", [7], [1.0])])
    assert re.search(r'<title>a</title>.*<use xlink:href="#\w+"', chart.svg, re.DOTALL)


def test_charts_are_said_in_words_for_who_cannot_see_them():
    chart = line_chart("The loss", [Line("loss", [1, 900], [2.5, 0.125])])
    assert chart.words == "The loss: loss from 2.5 at step 1 to 0.125 at step 900"
    chart = histogram("L", [3, 1500], "tokens", marks=[Mark("median", 5, "5")])
    assert chart.words == "L: 2 values from 3 to 1,500; median 5"


@pytest.mark.parametrize("log", [False, True])
def test_values_that_are_not_finite_are_left_out(log):
    nothing = [float("nan"), float("inf"), -float("inf"), 1e308]
    assert not line_chart("Loss", [], log=log).svg
    assert not line_chart("Loss", [Line("loss", range(4), nothing)], log=log).svg
    chart = line_chart("Loss", [Line("loss", range(6), [2.0, *nothing, 1.0])], log=log)
    (line,) = drawn(chart, "loss")
    assert len(line) == 2 and "nan" not in chart.svg and "inf" not in chart.svg
    assert bool(line_chart("Loss", [Line("loss", [0, 1], [0.0, 0.0])], log=log).svg) is not log


def test_values_below_zero_are_inside():
    (line,) = drawn(line_chart("Reward", [Line("reward", [1, 2], [-3.0, 1.0])]), "reward")
    assert ((line > 0) & (line < [360, 190])).all()


def test_values_are_counted_in_bars():
    values = [0, 1, 1, 4.5, 9.9, 10, 19, 20]
    assert bars(histogram("Lengths", values, "tokens", end=20, width=10)) == {0: 5, 10: 3}
    assert bars(histogram("Lengths", values, "tokens", width=10)) == {0: 5, 10: 2, 20: 1}
    assert bars(histogram("Lengths", [0, 0], "tokens")) == {0: 2}
    assert bars(histogram("Lengths", [1, float("nan"), float("inf")], "tokens")) == {1: 1}
    assert not histogram("Lengths", [], "tokens").svg


def test_bars_stand_where_their_values_are_and_are_as_high_as_their_counts():
    chart = histogram("Lengths", [5] * 10 + [25] * 5, "tokens", end=40, width=10)
    (first,), (second,) = drawn(chart, "from 0: 10"), drawn(chart, "from 20: 5")
    below, _ = labels(chart)
    np.testing.assert_allclose(first[:, 0].min(), below["0"], atol=0.1)
    np.testing.assert_allclose(second[:, 0].min(), below["20"], atol=0.1)
    np.testing.assert_allclose(second[:, 0].max(), below["30"], atol=0.1)
    assert np.ptp(first[:, 1]) == pytest.approx(2 * np.ptp(second[:, 1]), abs=0.2)
    assert "and more" not in chart.svg


def test_the_last_bar_holds_what_is_beyond_the_end_and_says_so():
    chart = histogram("Lengths", [5, 35, 1e6], "tokens", end=40, width=10)
    assert bars(chart) == {0: 1, 30: 2}
    assert "tokens (last bar: 30 and more)" in chart.svg


@pytest.mark.parametrize(
    ("largest", "width"), [(3, 1), (30, 1), (31, 2), (280, 10), (2048, 100), (100_000, 5000)]
)
def test_the_width_of_bars_is_round(largest, width):
    counts = bars(histogram("Lengths", np.arange(largest + 1), "tokens"))
    assert list(counts) == list(range(0, largest + 1, width))
    assert sum(counts.values()) == largest + 1


def test_marks_stand_at_their_values_and_in_the_legend():
    marks = [Mark("median", 10, "10"), Mark("row <L>", 40, "4 & 0")]
    chart = histogram("Lengths", [10, 20], "tokens", marks=marks, width=10)
    below, _ = labels(chart)  # the axis reaches to the larger mark
    for name, value in (("median 10", "10"), ("row <L> 4 & 0", "40")):
        (line,) = drawn(chart, name)
        np.testing.assert_allclose(line[:, 0], below[value], atol=0.1)
    assert ">median 10</text>" in chart.svg and ">row &lt;L&gt; 4 &amp; 0</text>" in chart.svg


def test_dots_stand_at_their_values_in_their_rows():
    rows = {
        "a <1>": [Bar("x & y", 20, 10, 40), Bar("z", 60)],
        "b": [Bar("x & y", 0, 0, 0), Bar("z", 100, 90, 100)],
    }
    chart = dot_chart("Rates", rows, "percent", 100)
    below, beside = labels(chart)
    assert list(beside) == ["a &lt;1&gt;", "b"] and "percent" in below

    def dot(name):
        title = re.escape(html.escape(name))
        found = re.search(
            rf'<title>{title}</title>.*?<use [^>]* x="([\d.]+)" y="([\d.]+)"', chart.svg, re.DOTALL
        )
        return tuple(map(float, found.groups()))

    tenth = (below["100"] - below["0"]) / 10
    for name, value in (("a <1>: x & y 20, 10 to 40", 2), ("b: z 100, 90 to 100", 10)):
        assert dot(name)[0] == pytest.approx(below["0"] + value * tenth, abs=0.1)
    assert (
        dot("a <1>: x & y 20, 10 to 40")[1] < dot("a <1>: z 60")[1] < dot("b: x & y 0, 0 to 0")[1]
    )
    whiskers = re.findall(r'<path d="M ([\d.]+) ([\d.]+) \nL ([\d.]+) \2 \n"', chart.svg)
    spans = [(float(start), float(end)) for start, _, end in whiskers]
    expected = below["0"] + tenth, below["0"] + 4 * tenth
    assert any(span == pytest.approx(expected, abs=0.1) for span in spans)
    assert ">x &amp; y</text>" in chart.svg and ">z</text>" in chart.svg
    assert chart.words == (
        "Rates: a <1>: x & y 20, 10 to 40, z 60; b: x & y 0, 0 to 0, z 100, 90 to 100"
    )
    assert not dot_chart("Rates", {}, "percent", 100).svg


def test_drawings_follow_the_page_and_are_the_same_again():
    line = Line("a", [1, 2], [1.0, 2.0])
    chart = line_chart("Rate", [line])
    assert chart == line_chart("Rate", [line])
    assert "var(--lines-0)" in chart.svg and "var(--rule)" in chart.svg
    bar = histogram("Lengths", [1], "tokens").svg
    assert "fill: var(--lines-0)" in bar
    for svg in (chart.svg, bar):
        assert not re.search(r"#[0-9a-f]{6}\b(?!\d)[^0-9a-f\"]|http|<style|font-family|<!|<\?", svg)
    # What has an id has one of its own: it is there once in a page.
    other = line_chart("Loss", [line])
    ids = re.findall(r'id="([^"]*)"', chart.svg + other.svg)
    assert len(ids) == len(set(ids)) > 0


def test_nothing_of_matplotlib_is_changed():
    import matplotlib

    level, size = logging.getLogger("matplotlib").level, matplotlib.rcParams["font.size"]
    with matplotlib.rc_context({"text.usetex": True, "axes.facecolor": "red"}):
        svg = line_chart("Rate", [Line("a", [1], [1.0])]).svg
        assert "red" not in svg and matplotlib.rcParams["text.usetex"]
    assert matplotlib.rcParams["font.size"] == size
    assert logging.getLogger("matplotlib").level == level


SCRIPT = """
import resource, sys
from owl_jax.errors import UserError
from owl_jax.pages.chart import Line, line_chart
assert "matplotlib" not in sys.modules
if len(sys.argv) > 1:
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
try:
    print(line_chart("Rate", [Line("a", [1, 2], [1.0, 2.0])]).svg[:4])
except UserError as error:
    print(error)
assert "matplotlib.pyplot" not in sys.modules
"""


@pytest.fixture
def without_a_home(tmp_path):
    """Draws in a process whose home is a file, in which nobody can make a directory."""
    home = tmp_path / "home"
    home.touch()
    names = ("MPLCONFIGDIR", "XDG_CACHE_HOME", "XDG_CONFIG_HOME")
    environment = {name: value for name, value in os.environ.items() if name not in names}
    environment |= {"HOME": str(home), "PYTHONPATH": str(ROOT)}

    def draw(*arguments):
        command = [sys.executable, "-c", SCRIPT, *arguments]
        return subprocess.run(command, env=environment, capture_output=True, text=True)

    return draw


def test_a_home_that_cannot_be_written_is_not_heard_of(without_a_home):
    result = without_a_home()
    assert (result.stdout, result.stderr, result.returncode) == ("<svg\n", "", 0)


def test_a_machine_where_nothing_can_be_written_is_told_in_one_line(without_a_home):
    result = without_a_home("no files")
    assert (result.stderr, result.returncode) == ("", 0)
    assert re.fullmatch(
        "charts cannot be drawn: Matplotlib requires .*MPLCONFIGDIR.*\n", result.stdout
    )
