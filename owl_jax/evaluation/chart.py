"""Line charts over steps as SVG, to stand in a page (evaluation/page.py, which has their style)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

# Units of a chart's drawing, about pixels: small enough to be read at a phone's width.
_WIDTH, _HEIGHT = 360, 220
_LEFT, _RIGHT, _TOP, _BOTTOM = 40, 14, 10, 36
_TICKS = 5

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
    x_scale = _Scale.around([0.0, *steps], _LEFT, _WIDTH - _RIGHT)
    values = [y for line in lines for y in line.values]
    y_scale = _Scale.around(values if log else [0.0, *values], _HEIGHT - _BOTTOM, _TOP, log)
    parts = [_axes(x_scale, y_scale)]
    for number, line in enumerate(lines):
        style = _stroke(number)
        if smooth:
            parts.append(_path("raw", style, line.steps, line.values, x_scale, y_scale))
        shown = _smoothed(line.values) if smooth else line.values
        parts.append(_path("mean", style, line.steps, shown, x_scale, y_scale))
    drawing = "\n".join(parts)
    return (
        f"<figure><figcaption>{escape(title)}{_legend(lines)}</figcaption>\n"
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" '
        f'aria-label="{escape(_describe(title, lines))}">\n{drawing}\n</svg></figure>'
    )


@dataclass(frozen=True)
class _Scale:
    """Values between low and high to places between start and end."""

    low: float
    high: float
    start: float
    end: float
    log: bool

    @classmethod
    def around(cls, values: Sequence[float], start: float, end: float, log: bool = False) -> _Scale:
        low, high = min(values), max(values)
        if low == high:
            # A single value stands in the middle.
            low, high = (low / 2, high * 2) if log else (low - 1, high + 1)
        return cls(low, high, start, end, log)

    def __call__(self, value: float) -> float:
        unit: Callable[[float], float] = math.log if self.log else float
        share = (unit(value) - unit(self.low)) / (unit(self.high) - unit(self.low))
        return self.start + share * (self.end - self.start)

    def ticks(self) -> list[float]:
        """Round values within the scale."""
        if self.log:
            ticks = self._powers((1, 2, 5))
            if len(ticks) > 2 * _TICKS:
                ticks = self._powers((1,))
                ticks = ticks[:: 1 + len(ticks) // (2 * _TICKS)]
            if len(ticks) > 1:
                return ticks
        step = _round_up((self.high - self.low) / _TICKS)
        first, last = math.ceil(self.low / step), math.floor(self.high / step)
        return [number * step for number in range(first, last + 1)]

    def _powers(self, digits: Sequence[int]) -> list[float]:
        """The powers of ten times `digits` that are within the scale."""
        decades = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        ticks = [digit * 10.0**decade for decade in decades for digit in digits]
        return [tick for tick in ticks if self.low <= tick <= self.high]


def _round_up(step: float) -> float:
    """The next 1, 2 or 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(step))
    return next(digit * power for digit in (1, 2, 5, 10) if digit * power >= step * 0.999)


def _axes(x_scale: _Scale, y_scale: _Scale) -> str:
    parts = []
    for tick in y_scale.ticks():
        y = y_scale(tick)
        parts.append(
            f'<path class="axis" d="M{_LEFT} {y:.1f}H{_WIDTH - _RIGHT}"/>'
            f'<text x="{_LEFT - 5}" y="{y + 4:.1f}" text-anchor="end">{_number(tick)}</text>'
        )
    bottom = _HEIGHT - _BOTTOM
    parts.append(f'<path class="axis" d="M{_LEFT} {_TOP}V{bottom}H{_WIDTH - _RIGHT}"/>')
    for tick in x_scale.ticks():
        x = x_scale(tick)
        parts.append(
            f'<path class="axis" d="M{x:.1f} {bottom}v4"/>'
            f'<text x="{x:.1f}" y="{bottom + 15}" text-anchor="middle">{_number(tick)}</text>'
        )
    middle = (_LEFT + _WIDTH - _RIGHT) / 2
    parts.append(f'<text x="{middle}" y="{_HEIGHT - 5}" text-anchor="middle">step</text>')
    return "\n".join(parts)


def _path(
    kind: str,
    style: str,
    steps: Sequence[float],
    values: Sequence[float],
    x_scale: _Scale,
    y_scale: _Scale,
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


def _number(value: float) -> str:
    """1500000 as 1.5M, 2000 as 2k, 0.0015 as 1.5e-3."""
    if value and not 1e-2 <= abs(value) < 1e9:
        digits, _, exponent = f"{value:.2e}".partition("e")
        return f"{float(digits):g}e{int(exponent)}"
    for size, letter in ((1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.4g}{letter}"
    return f"{value:.4g}"
