"""Line charts, histograms, bar and dot charts as inline SVG, drawn by matplotlib.

The colours are in the page's style (templates/base.html), since they differ in dark mode.
matplotlib takes half a second to import, so it is imported only to draw.
"""

from __future__ import annotations

import io
import logging
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import cycle
from typing import TYPE_CHECKING, Any

import numpy as np
from markupsafe import Markup

from owl_jax.errors import UserError, printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# In points, about pixels: readable on a phone.
_WIDTH, _HEIGHT = 360, 220
_BAR_HEIGHT, _AXIS_HEIGHT = 24, 60
_DOT_HEIGHT, _ROW_GAP = 11, 12
_TICKS, _BARS = 5, 30  # at most; bars only if no width is given
_ROUND = (1, 2, 5, 10)  # digits of round numbers

# A line keeps at most two points of each stretch, so 100,000 logged steps take only 40 KB.
_STRETCHES = 200

# Larger numbers overflow in matplotlib's axis limits.
_LARGEST = 1e300

# Placeholder colours of the drawing, and the variables of the page's style that replace them.
_VARIABLES = {
    f"#00010{number}": f"var(--{name})"
    for number, name in enumerate(
        ("lines-0", "lines-1", "lines-2", "lines-3", "ink", "soft", "rule", "card")
    )
}
*_COLORS, _INK, _SOFT, _RULE, _CARD = _VARIABLES
_BEST_FIRST = tuple(_COLORS[index] for index in (2, 0, 1, 3))

# Dashes and markers also distinguish, for readers who cannot distinguish the colours.
_DASHES = ((0, None), (0, (6, 3)), (0, (2, 3)), (0, (9, 3, 2, 3)))
_MARKERS = "os^D"

_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text, in the page's font
    "text.parse_math": False,
    "font.family": "DejaVu Sans",  # part of matplotlib; only measures text
    "font.size": 11,
    "axes.edgecolor": _RULE,
    "axes.labelcolor": _SOFT,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "axes.xmargin": 0,
    "grid.color": _RULE,
    "legend.frameon": False,
    "legend.labelcolor": _INK,
    "xtick.color": _RULE,
    "xtick.labelcolor": _SOFT,
    "ytick.labelcolor": _SOFT,
    "ytick.major.size": 0,
    "lines.linewidth": 1.8,
    "lines.markersize": 3,
    "lines.scale_dashes": False,
}


@dataclass(frozen=True)
class Line:
    """One quantity by step. Non-finite values are left out."""

    name: str
    steps: Sequence[float] | np.ndarray
    values: Sequence[float] | np.ndarray


@dataclass(frozen=True)
class Mark:
    """A vertical line at a value. said: the value as text, for the legend."""

    name: str
    value: float
    said: str


@dataclass(frozen=True)
class Bar:
    """A number with its interval; a baseline is grey and has none."""

    name: str
    value: float
    low: float | None = None
    high: float | None = None
    is_baseline: bool = False


@dataclass(frozen=True)
class Stack:
    """A bar of shares, which sum to 1 or less."""

    name: str
    shares: Sequence[float]


@dataclass(frozen=True)
class Chart:
    """A drawing and its title. svg: empty if there are no values. words: a text alternative."""

    title: str
    svg: str = ""
    words: str = ""


def line_chart(
    title: str, lines: Sequence[Line], *, log: bool = False, smooth: bool = False
) -> Chart:
    """Lines over steps.

    log: a logarithmic axis, which leaves out values of 0 or less; otherwise the axis starts at 0.
    smooth: adds a bold line of running means.
    """
    lines = [kept for line in lines if len((kept := _drawable(line, log)).values)]
    if not lines:
        return Chart(title)
    with _drawing(title, "step") as (figure, axes):
        handles = []
        for line, color, dashes in zip(lines, cycle(_COLORS), cycle(_DASHES), strict=False):
            style: dict[str, Any] = {
                "color": color,
                "linestyle": dashes,
                "marker": "o" if len(line.values) == 1 else None,
                "gid": f"title:{line.name}",
                "clip_on": False,
            }
            points = _thinned(line.steps, line.values)
            if smooth:
                axes.plot(*points, **style, linewidth=1, alpha=0.35)
                points = _means(line.steps, line.values)
            handles += axes.plot(*points, **style)
        axes.set_xlim(left=0)
        values = np.concatenate([line.values for line in lines])
        if log:
            _log_axis(axes, values)
        elif values.min() >= 0:
            axes.set_ylim(bottom=0)
        if lines[1:]:  # a single line needs no name
            _legend(figure, handles, [line.name for line in lines])
        svg = _svg(figure)
    ends = (
        f"{line.name} from {line.values[0]:.4g} at step {line.steps[0]:g} "
        f"to {line.values[-1]:.4g} at step {line.steps[-1]:g}"
        for line in lines
    )
    return Chart(title, svg, f"{title}: {'; '.join(ends)}")


def histogram(
    title: str,
    values: Sequence[float] | np.ndarray,
    unit: str,
    *,
    marks: Sequence[Mark] = (),
    end: float | None = None,
    width: float | None = None,
) -> Chart:
    """A histogram.

    Args:
      values: of 0 or more; non-finite ones are left out.
      unit: the label of the axis, which starts at 0.
      marks: up to three, within the axis.
      end: the end of the axis; the last bar includes all larger values. None: the largest value.
      width: of a bar. None: a round number of 1 or more, for about 30 bars.
    """
    array = np.asarray(values, float)
    array = array[np.abs(array) < _LARGEST]
    if not len(array):
        return Chart(title)
    with _drawing(title, unit) as (figure, axes):
        from matplotlib.ticker import MaxNLocator

        last = max(array.max(), *(mark.value for mark in marks), 1) if end is None else end
        if width is None:
            ticks = MaxNLocator(_BARS, steps=_ROUND, integer=True).tick_values(0, last)
            width = ticks[1] - ticks[0]
        bars = int(last // width + 1 if end is None else np.ceil(last / width))
        edges = np.arange(bars + 1) * width
        counts, _ = np.histogram(np.minimum(array, edges[-1]), edges)
        boxes = axes.bar(edges[:-1], counts, width, align="edge", color=_COLORS[0], edgecolor=_CARD)
        for box, start, number in zip(boxes, edges, counts, strict=False):
            box.set_gid(f"title:from {start:,g}: {number:,}")
            box.set_visible(number > 0)
        names = [f"{mark.name} {mark.said}" for mark in marks]
        across = [
            axes.axvline(mark.value, color=color, linestyle=dashes, gid=f"title:{name}")
            for mark, name, color, dashes in zip(marks, names, _COLORS[1:], _DASHES, strict=False)
        ]
        if array.max() > edges[-1]:
            axes.set_xlabel(f"{unit} (last bar: {edges[-2]:,g} and more)")
        axes.set_xlim(0, edges[-1])
        axes.yaxis.set_major_locator(MaxNLocator(_TICKS, steps=_ROUND, integer=True))
        _legend(figure, across, names)
        svg = _svg(figure)
    words = f"{title}: {len(array):,} values from {array.min():,g} to {array.max():,g}"
    return Chart(title, svg, "; ".join([words, *names]))


def bar_chart(title: str, bars: Sequence[Bar]) -> Chart:
    """Horizontal bars from 0, the first on top, with their intervals as whiskers."""
    if not bars:
        return Chart(title)
    with _drawing(title, "", height=_BAR_HEIGHT * len(bars) + _AXIS_HEIGHT) as (figure, axes):
        for row, bar in enumerate(bars):
            [box] = axes.barh(row, bar.value, 0.6, color=_SOFT if bar.is_baseline else _COLORS[0])
            box.set_gid(f"title:{_said(bar)}")
            if bar.low is not None and bar.high is not None:
                reach = [[bar.value - bar.low], [bar.high - bar.value]]
                axes.errorbar(bar.value, row, xerr=reach, color=_INK, capsize=3, linewidth=1)
        _name_rows(axes, [bar.name for bar in bars])
        ends = [end for bar in bars for end in (bar.value, bar.low, bar.high) if end is not None]
        least, most = min(0.0, *ends), max(0.0, *ends)
        margin = 0.03 * (most - least) or 1.0  # for the caps of the whiskers
        axes.set_xlim(least - margin * (least < 0), most + margin)
        svg = _svg(figure)
    return Chart(title, svg, f"{title}: {'; '.join(map(_said, bars))}")


def stacked_chart(title: str, stacks: Sequence[Stack], parts: Sequence[str]) -> Chart:
    """Horizontal bars of shares side by side, the first on top.

    parts: names of up to four shares, from the best to the worst.
    """
    if not stacks:
        return Chart(title)
    with _drawing(title, "share", height=_BAR_HEIGHT * len(stacks) + _AXIS_HEIGHT) as drawing:
        figure, axes = drawing
        starts = np.zeros(len(stacks))
        handles = []
        for index, (part, color) in enumerate(zip(parts, _BEST_FIRST, strict=False)):
            shares = np.array([stack.shares[index] for stack in stacks])
            boxes = axes.barh(range(len(stacks)), shares, 0.6, left=starts, color=color)
            for box, stack, share in zip(boxes, stacks, shares, strict=True):
                box.set_gid(f"title:{stack.name}: {part} {share:.1%}")
            handles.append(boxes)
            starts += shares
        _name_rows(axes, [stack.name for stack in stacks])
        axes.set_xlim(0, 1)
        _legend(figure, handles, parts, columns=len(parts))
        svg = _svg(figure)
    said = (
        f"{stack.name}: "
        + ", ".join(f"{p} {share:.1%}" for p, share in zip(parts, stack.shares, strict=True))
        for stack in stacks
    )
    return Chart(title, svg, f"{title}: {'; '.join(said)}")


def dot_chart(title: str, rows: Mapping[str, Sequence[Bar]], unit: str, end: float) -> Chart:
    """Dots with their intervals as whiskers, several in each row; the first row on top.

    Args:
      rows: {name of a row: its numbers}; up to four numbers, of the same names in each row.
      unit: the label of the axis, which runs from 0 to `end`.
    """
    if not rows:
        return Chart(title)
    series = list(zip(*rows.values(), strict=True))
    pitch = _DOT_HEIGHT * len(series) + _ROW_GAP
    height = pitch * len(rows) + _AXIS_HEIGHT + _BAR_HEIGHT
    with _drawing(title, unit, height) as (figure, axes):
        handles = []
        for index, (bars, color, marker) in enumerate(zip(series, _COLORS, _MARKERS, strict=False)):
            offset = _DOT_HEIGHT * (index - (len(series) - 1) / 2) / pitch
            for row, (name, bar) in enumerate(zip(rows, bars, strict=True)):
                if bar.low is not None and bar.high is not None:
                    axes.hlines(row + offset, bar.low, bar.high, color=color, linewidth=1.2)
                dots = axes.plot(
                    bar.value,
                    row + offset,
                    color=color,
                    marker=marker,
                    markersize=5,
                    linestyle="",
                    clip_on=False,
                    gid=f"title:{printable(name)}: {printable(_said(bar))}",
                )
            handles += dots
        for row in range(1, len(rows)):
            axes.axhline(row - 0.5, color=_RULE, linewidth=0.8)
        _name_rows(axes, list(rows))
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.set_xlim(0, end)
        _legend(figure, handles, [bars[0].name for bars in series])
        svg = _svg(figure)
    said = (f"{name}: {', '.join(map(_said, bars))}" for name, bars in rows.items())
    return Chart(title, svg, f"{title}: {'; '.join(said)}")


def _said(bar: Bar) -> str:
    reach = "" if bar.low is None else f", {bar.low:.4g} to {bar.high:.4g}"
    return f"{bar.name} {bar.value:.4g}{reach}"


def _name_rows(axes: Axes, names: Sequence[str]) -> None:
    """A name at each row instead of a number; the first row on top."""
    from matplotlib.ticker import FixedLocator

    axes.yaxis.set_major_locator(FixedLocator(range(len(names))))
    axes.yaxis.set_major_formatter(lambda row, _: printable(names[int(row)]))
    axes.invert_yaxis()
    axes.grid(visible=False, axis="y")
    axes.grid(visible=True, axis="x")


@contextmanager
def _drawing(title: str, x_label: str, height: float = _HEIGHT) -> Iterator[tuple[Figure, Axes]]:
    """A figure in our style, independent of the user's matplotlibrc, with matplotlib's log off.

    Raises UserError if matplotlib finds no directory for its font list.
    """
    logger = logging.getLogger("matplotlib")
    level = logger.level
    # Hides messages about a read-only home, the font search and missing glyphs: they do not matter,
    # since the browser uses its own fonts.
    logger.setLevel(logging.CRITICAL)
    try:
        try:
            import matplotlib
            from matplotlib.figure import Figure
            from matplotlib.ticker import MaxNLocator
        except OSError as error:
            raise UserError(f"charts cannot be drawn: {error}") from None
        with matplotlib.rc_context(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            matplotlib.rcdefaults()
            matplotlib.rcParams.update(_STYLE | {"svg.hashsalt": printable(title)})
            figure = Figure(figsize=(_WIDTH / 72, height / 72), layout="constrained")
            axes = figure.subplots()
            figure.patch.set_visible(False)
            axes.patch.set_visible(False)
            axes.set_xlabel(x_label)
            for axis in (axes.xaxis, axes.yaxis):
                whole = axis is axes.xaxis
                axis.set_major_locator(MaxNLocator(_TICKS, steps=_ROUND, integer=whole))
                axis.set_major_formatter(_number)
            yield figure, axes
    finally:
        logger.setLevel(level)


def _number(value: float, _: object = None) -> str:
    return f"{value:,.0f}" if 1000 <= abs(value) < 1e9 else f"{value:.3g}"


def _log_axis(axes: Axes, values: np.ndarray) -> None:
    from matplotlib.ticker import LogLocator

    axes.set_yscale("log")
    decades = np.ptp(np.log10(values))
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if decades < 3 else (1,)))
    axes.yaxis.set_major_formatter(_number)
    axes.minorticks_off()


def _legend(figure: Figure, handles: Sequence[Any], names: Sequence[str], columns: int = 2) -> None:
    """A legend above the axes, in columns that fit a phone."""
    figure.legend(handles, names, loc="outside upper left", ncols=min(columns, len(names)))


def _svg(figure: Figure) -> Markup:
    """The drawing as inline SVG, in the page's colours and without metadata."""
    file = io.StringIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    figure.savefig(file, format="svg", metadata=nothing)
    # The first <defs> has styles that would apply to the whole page; base.html replaces them.
    head = r'.*?<svg [^>]*(viewBox="[^"]*")[^>]*>\s*<defs>.*?</defs>'
    svg = re.sub(head, r"<svg \1>", file.getvalue(), count=1, flags=re.DOTALL)
    svg = re.sub(r'<g id="title:([^"]*)">', r"<g><title>\1</title>", svg)
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)  # the next chart would have the same ids
    svg = re.sub(r" font-family: [^;\"]*;?", "", svg)
    return Markup(re.sub("#00010[0-7]", lambda color: _VARIABLES[color[0]], svg))


def _drawable(line: Line, log: bool) -> Line:
    steps, values = np.asarray(line.steps, float), np.asarray(line.values, float)
    kept = np.abs(values) < _LARGEST
    if log:
        kept &= values > 0
    return Line(printable(line.name), steps[kept], values[kept])


def _thinned(steps: Any, values: Any) -> tuple[Any, Any]:
    """Thins a line to the minimum and maximum of each stretch, and the ends; keeps all peaks."""
    if len(values) <= 2 * _STRETCHES:
        return steps, values
    kept = {0, len(values) - 1}
    for stretch in np.array_split(np.arange(len(values)), _STRETCHES):
        part = values[stretch]
        kept |= {stretch[part.argmin()], stretch[part.argmax()]}
    indices = sorted(kept)
    return steps[indices], values[indices]


def _means(steps: Any, values: Any) -> tuple[Any, Any]:
    """Running means over a tenth of the line, or less at its ends, at evenly spaced points."""
    reach = len(values) // 20
    indices = np.unique(np.linspace(0, len(values) - 1, 2 * _STRETCHES).round().astype(int))
    # Differences of cumulative sums are not exact: a loss of 1e20 would swallow later ones.
    means = [values[max(0, i - reach) : i + reach + 1].mean() for i in indices]
    return steps[indices], means
