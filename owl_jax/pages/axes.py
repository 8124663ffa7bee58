"""Axes of the charts as SVG: values to places, round values beside them, short numbers."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

# Units of a chart's drawing, about pixels: small enough to be read at a phone's width.
WIDTH, HEIGHT = 360, 220
LEFT, RIGHT, TOP, BOTTOM = 40, 346, 10, 184  # where the values are drawn

_TICKS = 5


@dataclass(frozen=True)
class Scale:
    """Values between low and high to places between start and end."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    @classmethod
    def around(cls, values: Sequence[float], start: float, end: float, log: bool = False) -> Scale:
        """From the least of the values to the greatest."""
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
        step = round_up((self.high - self.low) / _TICKS)
        first, last = math.ceil(self.low / step), math.floor(self.high / step)
        return [number * step for number in range(first, last + 1)]

    def _powers(self, digits: Sequence[int]) -> list[float]:
        """The powers of ten times `digits` that are within the scale."""
        decades = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        ticks = [digit * 10.0**decade for decade in decades for digit in digits]
        return [tick for tick in ticks if self.low <= tick <= self.high]


def round_up(step: float) -> float:
    """The next 1, 2 or 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(step))
    return next(digit * power for digit in (1, 2, 5, 10) if digit * power >= step * 0.999)


def axes(x_scale: Scale, y_scale: Scale, x_label: str) -> str:
    """Lines across at the ticks of y, ticks of x below, and what x is."""
    parts = []
    for tick in y_scale.ticks():
        y = y_scale(tick)
        parts.append(
            f'<path class="axis" d="M{LEFT} {y:.1f}H{RIGHT}"/>'
            f'<text x="{LEFT - 5}" y="{y + 4:.1f}" text-anchor="end">{short(tick)}</text>'
        )
    parts.append(f'<path class="axis" d="M{LEFT} {TOP}V{BOTTOM}H{RIGHT}"/>')
    for tick in x_scale.ticks():
        x = x_scale(tick)
        parts.append(
            f'<path class="axis" d="M{x:.1f} {BOTTOM}v4"/>'
            f'<text x="{x:.1f}" y="{BOTTOM + 15}" text-anchor="middle">{short(tick)}</text>'
        )
    middle = (LEFT + RIGHT) / 2
    parts.append(
        f'<text x="{middle}" y="{HEIGHT - 5}" text-anchor="middle">{escape(x_label)}</text>'
    )
    return "\n".join(parts)


def short(value: float) -> str:
    """1500000 as 1.5M, 2000 as 2k, 0.0015 as 1.5e-3."""
    if value and not 1e-2 <= abs(value) < 1e9:
        digits, _, exponent = f"{value:.2e}".partition("e")
        return f"{float(digits):g}e{int(exponent)}"
    for size, letter in ((1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.4g}{letter}"
    return f"{value:.4g}"
