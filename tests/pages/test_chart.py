import re

import numpy as np
import pytest

from owl_jax.pages.chart import Line, line_chart

RAW, MEAN = ('class="raw"', 'class="mean"')


def paths(svg, kind):
    """The points of each line of a kind, as arrays [n, 2]."""
    courses = re.findall(rf'<path {kind} style="[^"]*" d="M([^"]*)"', svg.partition("<svg view")[2])
    return [np.array([p.split() for p in course.split("L")], float) for course in courses]


def ticks(svg, anchor):
    """Label and place (x below the chart, y beside it) of each tick."""
    found = re.findall(rf'<text x="([\d.]+)" y="([\d.]+)" text-anchor="{anchor}">([^<]*)<', svg)
    place = 0 if anchor == "middle" else 1
    return {text: float(values[place]) for *values, text in found}


def test_lines_run_through_their_values():
    svg = line_chart("Rate", [Line("a", [10, 20, 30], [1.0, 3.0, 4.0])])
    (line,) = paths(svg, MEAN)
    np.testing.assert_array_equal(line[0], line[1])  # the first point twice: a dot if alone
    x, y = line[1:].T
    assert x[1] - x[0] == pytest.approx(x[2] - x[1], abs=0.2)
    assert (y[0] - y[1]) == pytest.approx(2 * (y[1] - y[2]), abs=0.2)
    steps, values = ticks(svg, "middle"), ticks(svg, "end")
    assert steps["10"] == x[0] and steps["30"] == x[2]
    assert values["1"] - 4 == pytest.approx(y[0], abs=0.1)
    assert list(values) == ["0", "1", "2", "3", "4"]
    assert "step" in steps
    assert paths(svg, RAW) == []


def test_logarithmic_axis_leaves_out_what_it_cannot_show():
    svg = line_chart("Loss", [Line("loss", [1, 2, 3, 4], [1.0, 0.0, 0.1, 0.01])], log=True)
    (line,) = paths(svg, MEAN)
    assert len(line) == 1 + 3
    y = line[1:, 1]
    assert y[1] - y[0] == pytest.approx(y[2] - y[1], abs=0.2)
    assert 0 < y[0] < 30 and 170 < y[2] < 220  # of the drawing's 220 from the top
    assert list(ticks(svg, "end")) == ["0.01", "0.02", "0.05", "0.1", "0.2", "0.5", "1"]


@pytest.mark.parametrize(
    ("values", "labels"),
    [
        ([1e-5, 1e3], ["1e-5", "1e-4", "1e-3", "0.01", "0.1", "1", "10", "100", "1k"]),
        ([1e-10, 1e10], ["1e-10", "1e-7", "1e-4", "0.1", "100", "100k", "100M"]),
        ([0.31, 0.39], ["0.32", "0.34", "0.36", "0.38"]),
        ([2.0, 2.0], ["1", "2"]),
    ],
)
def test_logarithmic_ticks(values, labels):
    found = list(ticks(line_chart("Loss", [Line("loss", [0, 1], values)], log=True), "end"))
    assert found[: len(labels)] == labels
    assert len(found) <= 11


def test_large_and_small_numbers_are_short():
    line = Line("a", [0, 50_000], [0.0, 2.0e-4])
    svg = line_chart("Rate", [line])
    assert "50k" in ticks(svg, "middle")
    assert "1.5e-4" in ticks(svg, "end")
    assert "2M" in ticks(line_chart("Rate", [Line("a", [0, 1], [0, 2_000_000])]), "end")


def test_smoothing_is_the_mean_of_the_neighbours():
    values = np.random.default_rng(0).uniform(1, 2, 59)
    svg = line_chart("Loss", [Line("loss", list(range(59)), values.tolist())], smooth=True)
    (raw,), (mean,) = paths(svg, RAW), paths(svg, MEAN)
    raw, mean = raw[1:, 1], mean[1:, 1]
    np.testing.assert_allclose(mean[20], raw[18:23].mean(), atol=0.11)
    np.testing.assert_allclose(mean[0], raw[:3].mean(), atol=0.11)
    np.testing.assert_allclose(mean[-1], raw[-3:].mean(), atol=0.11)


def test_several_lines_have_names_and_differ_by_dashes():
    svg = line_chart("Rate", [Line("a & b", [1], [1.0]), Line("c", [1], [2.0])])
    assert "a &amp; b</span>" in svg and "c</span>" in svg
    assert len(set(re.findall(r"stroke-dasharray:([^\"]*)", svg))) == 2
    assert "</span>" not in line_chart("Rate", [Line("a", [1], [1.0])])


def test_said_in_words_for_who_cannot_see_it():
    svg = line_chart('The "loss"', [Line("loss", [1, 900], [2.5, 0.125])])
    words = "The &quot;loss&quot;: loss from 2.5 at step 1 to 0.125 at step 900"
    assert f'aria-label="{words}"' in svg


def test_nothing_to_show():
    for lines in ([], [Line("loss", [], [])]):
        assert "No values." in line_chart("Loss", lines)
    assert "No values." in line_chart("Loss", [Line("loss", [1], [0.0])], log=True)
    constant = line_chart("Rate", [Line("a", [0, 1], [0.0, 0.0])])
    assert np.isfinite(paths(constant, MEAN)[0]).all()
