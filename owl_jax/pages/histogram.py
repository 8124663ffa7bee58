"""Histograms as SVG, to stand in a page (pages/page.py, which has their style)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

from owl_jax.pages.axes import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, Scale, axes, round_up

_BARS = 30  # about as many, if their width is not given

# Marks differ by their dashes too, for who does not see the colours apart.
_DASHES = ("none", "6 3", "2 3")


@dataclass(frozen=True)
class Mark:
    """A value that is marked by a line across the bars. said: the value as the legend has it."""

    name: str
    value: float
    said: str


def histogram(
    title: str,
    values: Sequence[float],
    unit: str,
    *,
    marks: Sequence[Mark] = (),
    end: float | None = None,
    width: float | None = None,
) -> str:
    """A figure of how many of the values are how large.

    Args:
      values: of 0 or more.
      unit: what stands below the axis, which begins at 0.
      marks: up to three, within the axis.
      end: where the axis ends; the last bar holds all larger values too. None: at the largest.
      width: of a bar. None: a round number of 1 or more, for about 30 bars.
    """
    if not len(values):
        empty = '<p class="soft">No values.</p>'
        return f"<figure><figcaption>{escape(title)}</figcaption>{empty}</figure>"
    array = np.asarray(values, float)
    last = max(array.max(), *(mark.value for mark in marks), 1) if end is None else end
    width = max(1.0, round_up(last / _BARS)) if width is None else width
    bars = math.floor(last / width) + 1 if end is None else math.ceil(end / width)
    counts = np.bincount(np.minimum(array // width, bars - 1).astype(int), minlength=bars)
    beyond = array.max() > bars * width
    x_scale = Scale(0, bars * width, LEFT, RIGHT)
    # Five at least, so that the ticks are whole numbers.
    y_scale = Scale(0, max(5, counts.max()), BOTTOM, TOP)
    if beyond:
        unit = f"{unit} (last bar: {(bars - 1) * width:,g} and more)"
    parts = [axes(x_scale, y_scale, unit)]
    for number, count in enumerate(counts):
        if count:
            parts.append(_bar(number * width, width, int(count), x_scale, y_scale))
    parts += [
        f'<path class="mark" {_stroke(number)} d="M{x_scale(mark.value):.1f} {TOP}V{BOTTOM}"/>'
        for number, mark in enumerate(marks)
    ]
    drawing = "\n".join(parts)
    described = "; ".join(
        [f"{title}: {len(array):,} values from {array.min():,g} to {array.max():,g}"]
        + [f"{mark.name} {mark.said}" for mark in marks]
    )
    return (
        f"<figure><figcaption>{escape(title)}{_legend(marks)}</figcaption>\n"
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(described)}">\n'
        f"{drawing}\n</svg></figure>"
    )


def _bar(start: float, width: float, count: int, x_scale: Scale, y_scale: Scale) -> str:
    left, right, top = x_scale(start), x_scale(start + width), y_scale(count)
    return (
        f'<rect class="bar" x="{left + 0.5:.1f}" y="{top:.1f}" width="{right - left - 1:.1f}" '
        f'height="{BOTTOM - top:.1f}"><title>from {start:,g}: {count:,}</title></rect>'
    )


def _stroke(number: int) -> str:
    return f'style="stroke:var(--lines-{number + 1});stroke-dasharray:{_DASHES[number]}"'


def _legend(marks: Sequence[Mark]) -> str:
    return "".join(
        f'<span><svg viewBox="0 0 26 10" aria-hidden="true"><path class="mark" '
        f'{_stroke(number)} d="M0 5H26"/></svg> {escape(f"{mark.name} {mark.said}")}</span>'
        for number, mark in enumerate(marks)
    )
