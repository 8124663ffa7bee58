"""report.html of an evaluation: numbers beside baselines and other models, and single items."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from owl_jax.errors import BadData
from owl_jax.evaluation.benchmark import LETTERS, Benchmark, Item, Judged, Medium
from owl_jax.evaluation.intervals import Difference
from owl_jax.files import write_whole
from owl_jax.media.image import load_image
from owl_jax.media.video import load_frames
from owl_jax.pages.chart import Bar, bar_chart
from owl_jax.pages.page import render

_SHOWN = 12  # items in each of the two lists
_FRAMES = 4  # of a video


@dataclass(frozen=True)
class System:
    """One system of the report: results.json and its judged items."""

    results: Mapping[str, Any]
    judged: Sequence[Judged]

    @property
    def name(self) -> str:
        return str(self.results["system"])


def write_report(
    path: Path,
    benchmark: Benchmark,
    systems: Sequence[System],
    differences: Sequence[Difference],
) -> None:
    """Writes the page.

    Args:
      systems: the evaluated one first, then those that it is compared with.
      differences: the evaluated one against each of the others.
    """
    first = systems[0]
    by_id = [{one.item.id: one for one in system.judged} for system in systems]
    page = render(
        __package__,
        "report.html",
        title=f"{benchmark.name}: {first.name}",
        headline=benchmark.headline,
        chart=bar_chart(benchmark.headline, _bars(systems)),
        systems=systems,
        differences=list(zip(systems[1:], differences, strict=True)),
        categories=sorted({name for system in systems for name in system.results["categories"]}),
        scores=[dict(_flat(system.results["scores"])) for system in systems],
        variants=dict(_flat(first.results["variants"])),
        lists={
            "Lowest scores": [_shown(one, by_id) for one in _worst(first.judged)],
            "Drawn at random": [_shown(one, by_id) for one in _drawn(first.judged)],
        },
    )
    write_whole(path, page)


def _bars(systems: Sequence[System]) -> list[Bar]:
    bars = []
    for system in systems:
        headline = system.results["headline"]
        bars.append(Bar(system.name, headline["value"], *headline["interval"]))
    baselines = systems[0].results["baselines"]
    return bars + [Bar(name, value, is_baseline=True) for name, value in baselines.items()]


def _flat(scores: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    """Nested scores as one table; lists are left to results.json."""
    for name, value in scores.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}: ")
        elif not isinstance(value, list | tuple):
            yield f"{prefix}{name}", value


def _worst(judged: Sequence[Judged]) -> list[Judged]:
    scored = [one for one in judged if one.verdict.score is not None]
    return sorted(scored, key=lambda one: (one.verdict.score, _hash(one.item)))[:_SHOWN]


def _drawn(judged: Sequence[Judged]) -> list[Judged]:
    """The same items for every model."""
    return sorted(judged, key=lambda one: _hash(one.item))[:_SHOWN]


def _hash(item: Item) -> str:
    return hashlib.sha256(item.id.encode("utf-8", "surrogatepass")).hexdigest()


def _shown(one: Judged, by_id: Sequence[Mapping[str, Judged]]) -> dict[str, Any]:
    item = one.item
    return {
        "id": item.id,
        "category": item.category,
        "question": item.question,
        "choices": list(zip(LETTERS, item.choices, strict=False)),
        "truth": item.truth,
        "pictures": [picture for medium in item.media for picture in _pictures(medium)],
        "answers": [judged.get(item.id) for judged in by_id],
    }


def _pictures(medium: Medium) -> list[Image.Image]:
    """A picture, or a few frames; nothing of a file that cannot be read."""
    try:
        if isinstance(medium.source, Path | bytes) and medium.kind == "image":
            return [load_image(medium.source)]
        return load_frames(medium.source, _FRAMES)
    except BadData:
        return []
