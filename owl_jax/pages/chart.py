"""Line charts over steps as SVG, to stand in a page (pages/page.py, which has their style)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

from owl_jax.pages.axes import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, Scale, axes

# Lines of one chart differ by their dashes too, for who does not see the colours apart.
_DASHES = ("none", "6 3", "2 3", "9 3 2 3")


@dataclass(frozen=True)
class Line:
    """One quantity by step. values: finite; a step that has none is left out."""

    name: str
    steps: Sequence[float]
    values: Sequence[float]


def line_chart(
    title: str, lines: Sequence[Line], *, log: bool = False, smooth: bool = False
) -> str:
    """A figure of lines over steps.

    log: a logarithmic axis, on which values of 0 or less have no place and are left out; without it
      the axis begins at 0. smooth: a bold line of means in front of the values themselves.
    """
    if log:
        lines = [_positive(line) for line in lines]
    lines = [line for line in lines if line.values]
    if not lines:
        empty = '<p class="soft">No values.</p>'
        return f"<figure><figcaption>{escape(title)}</figcaption>{empty}</figure>"
    steps = [x for line in lines for x in line.steps]
    x_scale = Scale.around([0.0, *steps], LEFT, RIGHT)
    values = [y for line in lines for y in line.values]
    y_scale = Scale.around(values if log else [0.0, *values], BOTTOM, TOP, log)
    parts = [axes(x_scale, y_scale, "step")]
    for number, line in enumerate(lines):
        style = _stroke(number)
        if smooth:
            parts.append(_path("raw", style, line.steps, line.values, x_scale, y_scale))
        shown = _smoothed(line.values) if smooth else line.values
        parts.append(_path("mean", style, line.steps, shown, x_scale, y_scale))
    drawing = "\n".join(parts)
    return (
        f"<figure><figcaption>{escape(title)}{_legend(lines)}</figcaption>\n"
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="{escape(_describe(title, lines))}">\n{drawing}\n</svg></figure>'
    )


def _path(
    kind: str,
    style: str,
    steps: Sequence[float],
    values: Sequence[float],
    x_scale: Scale,
    y_scale: Scale,
) -> str:
    points = [f"{x_scale(x):.1f} {y_scale(y):.1f}" for x, y in zip(steps, values, strict=True)]
    # From the first point to itself, so that a single value shows as a dot.
    course = "L".join([points[0], *points])
    return f'<path class="{kind}" {style} d="M{course}"/>'


def _stroke(number: int) -> str:
    color, dashes = number % 4, _DASHES[number % len(_DASHES)]
    return f'style="stroke:var(--lines-{color});stroke-dasharray:{dashes}"'


def _legend(lines: Sequence[Line]) -> str:
    """Names beside samples of the lines; a single line needs none."""
    if len(lines) == 1:
        return ""
    return "".join(
        f'<span><svg viewBox="0 0 26 10" aria-hidden="true"><path class="mean" '
        f'{_stroke(number)} d="M0 5H26"/></svg> {escape(line.name)}</span>'
        for number, line in enumerate(lines)
    )


def _describe(title: str, lines: Sequence[Line]) -> str:
    """The chart for who cannot see it."""
    ends = (
        f"{line.name} from {line.values[0]:.4g} at step {line.steps[0]:g} "
        f"to {line.values[-1]:.4g} at step {line.steps[-1]:g}"
        for line in lines
    )
    return f"{title}: {'; '.join(ends)}"


def _positive(line: Line) -> Line:
    pairs = [(x, y) for x, y in zip(line.steps, line.values, strict=True) if y > 0]
    return Line(line.name, [x for x, _ in pairs], [y for _, y in pairs])


def _smoothed(values: Sequence[float]) -> list[float]:
    """The mean of each value and its neighbours, a tenth of the line in all; fewer at the ends."""
    reach = len(values) // 20
    sums = np.concatenate([[0.0], np.cumsum(values)])
    first = np.maximum(np.arange(len(values)) - reach, 0)
    last = np.minimum(np.arange(len(values)) + reach + 1, len(values))
    return ((sums[last] - sums[first]) / (last - first)).tolist()
