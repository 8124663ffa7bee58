"""The page of the preview: what the data is, what was dropped, and batches as rows.

Everything is read back from the arrays that the model gets (preview/unpacking.py). The page is one
file (pages/page.py); all text is escaped.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

from owl_jax.data.batch import Batch, RowShape
from owl_jax.data.drops import DropLog, Dropped
from owl_jax.pages.histogram import Mark, histogram
from owl_jax.pages.page import Share, bar_table, grid, page
from owl_jax.preview.rows import STYLE, batch_section
from owl_jax.preview.unpacking import UnpackedRow, unpack
from owl_jax.text.tokenizer import Tokenizer

# Dropped records.
_MOST_LISTED, _MOST_UNFOLDED = 50, 10


@dataclass(frozen=True)
class SourceInfo:
    """A source of the mixture. share: of the mixture's records, between 0 and 1."""

    name: str
    records: int
    share: float


@dataclass(frozen=True)
class Head:
    """What is previewed. max_dropped: the share of dropped records that a training allows."""

    config: str
    tokenizer: str
    shape: RowShape
    sources: Sequence[SourceInfo]
    max_dropped: float


@dataclass(frozen=True)
class Sizes:
    """What each record takes before anything of it is cut: positions, pictures, videos."""

    lengths: Sequence[int]
    images: Sequence[int]
    videos: Sequence[int]


def preview_page(
    head: Head,
    batches: Sequence[Batch],
    tokenizer: Tokenizer,
    drops: DropLog,
    sizes: Sizes,
    max_rows: int,
) -> str:
    """The whole HTML file. max_rows: of each batch that are shown; the first ones."""
    unpacked = [unpack(batch, head.shape.media_length) for batch in batches]
    rows = [row for batch in unpacked for row in batch]
    sections = [
        _head(head),
        f"<h2>Records</h2>\n{_records(sizes, rows, head.shape.length)}",
        f"<h2>Dropped</h2>\n{_drops(drops, head.max_dropped)}",
    ]
    sections += [
        batch_section(number, batch, tokenizer, max_rows)
        for number, batch in enumerate(unpacked, start=1)
    ]
    return page(f"The data of {head.config}", "\n".join(sections), STYLE)


def _head(head: Head) -> str:
    shape = head.shape
    room = [f"{shape.length:,} positions", _count(shape.image_slots, "picture")]
    if shape.video_slots:
        room.append(f"{_count(shape.video_slots, 'video')} of {shape.frames} frames")
    facts = {
        "Tokenizer": head.tokenizer,
        "A row has room for": ", ".join(room),
        "A picture or video takes": f"{shape.media_length} positions",
        "The model sees": f"{shape.image_size} × {shape.image_size} pixels",
    }
    table = "".join(
        f"<tr><th>{escape(name)}</th><td>{escape(value)}</td></tr>\n"
        for name, value in facts.items()
    )
    shares = [
        Share(f"{source.name} ({_count(source.records, 'record')})", source.share)
        for source in head.sources
    ]
    return (
        f'<table class="facts">\n{table}</table>\n<h2>Mixture</h2>\n'
        f'<p class="soft">The share of each source in what is trained on.</p>\n{bar_table(shares)}'
    )


def _records(sizes: Sizes, rows: Sequence[UnpackedRow], length: int) -> str:
    lengths = np.asarray(sizes.lengths)
    said, charts, media = '<p class="soft">None was read.</p>', [], ""
    if len(lengths):
        cut = float(np.mean(lengths > length))
        said = (
            f'<p class="soft">Of {_count(len(lengths), "record")}, before anything is cut: '
            f"{cut:.1%} are longer than a row and are cut.</p>"
        )
        middle, high = np.percentile(lengths, (50, 95))
        marks = [
            Mark("median", middle, f"{middle:,.0f}"),
            Mark("95th percentile", high, f"{high:,.0f}"),
            Mark("row", length, f"{length:,}"),
        ]
        # A few very long ones would leave no room for the others.
        end = max(1.5 * length, 1.1 * high)
        end = end if lengths.max() > end else None
        charts.append(
            histogram("Length of the records", sizes.lengths, "positions", marks=marks, end=end)
        )
        media = f"\n<h3>Media of a record</h3>\n{_media(sizes)}"
    fills = [100 * row.fill for row in rows]
    mean = [Mark("mean", float(np.mean(fills)), f"{np.mean(fills):.1f}%")] if fills else []
    charts.append(
        histogram("Fill of the rows", fills, "% of the positions", marks=mean, end=100, width=5)
    )
    return f"{said}\n{grid(charts)}{media}"


def _media(sizes: Sizes) -> str:
    kinds = Counter(zip(sizes.videos, sizes.images, strict=True))
    shares = []
    for (videos, images), number in sorted(kinds.items()):
        parts = [
            _count(count, noun) for count, noun in ((images, "picture"), (videos, "video")) if count
        ]
        shares.append(Share(" and ".join(parts) or "words alone", number / kinds.total()))
    return bar_table(shares)


def _drops(drops: DropLog, allowed: float) -> str:
    count = drops.reasons.total()
    if not drops.seen:
        return '<p class="soft">No record was read.</p>'
    share = count / drops.seen
    parts = [
        f"<p>{f'{count:,}' if count else 'None'} of the {_count(drops.seen, 'record')} read for "
        f"these batches, {share:.1%}; data.max_dropped allows {allowed:.1%}.</p>"
    ]
    if share > allowed:
        parts.append('<p class="alarm">More than it allows: a training would stop.</p>')
    if count:
        rows = "".join(
            f'<tr><th>{escape(reason)}</th><td class="number">{number:,}</td></tr>\n'
            for reason, number in drops.reasons.most_common()
        )
        parts.append(f'<table class="narrow">\n{rows}</table>')
    parts.append(_listed(drops.dropped))
    return "\n".join(parts)


def _listed(dropped: Sequence[Dropped]) -> str:
    """The first of them, each with its place; unfolded if there are few."""
    if not dropped:
        return ""
    items = "".join(
        f"<li><b>{escape(item.reason)}</b> <code>{escape(item.where)}</code><br>"
        f"{escape(item.message.removeprefix(f'{item.where}: '))}</li>\n"
        for item in dropped[:_MOST_LISTED]
    )
    more = len(dropped) - _MOST_LISTED
    rest = f'<p class="soft">… {more:,} more</p>' if more > 0 else ""
    unfolded = " open" if len(dropped) <= _MOST_UNFOLDED else ""
    return (
        f"<details{unfolded}><summary>Where ({len(dropped):,})</summary>\n"
        f'<ul class="dropped">\n{items}</ul>{rest}</details>'
    )


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
