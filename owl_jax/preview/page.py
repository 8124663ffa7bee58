"""The page of the preview: the data, the dropped records, and the packed sequences of batches.

The sequences are reconstructed from the arrays that the model gets (preview/unpacking.py).
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from owl_jax.data.batch import Batch, SequenceShape
from owl_jax.data.drops import DropLog
from owl_jax.pages.chart import Chart, Mark, histogram
from owl_jax.pages.page import Share, count, render
from owl_jax.preview.unpacking import Medium, UnpackedSequence, Words, unpack
from owl_jax.text.tokenizer import Tokenizer

# Maximum number of dropped records that the page lists, and that it lists unfolded.
_MOST_LISTED, _MOST_UNFOLDED = 50, 10

# Maximum side in pixels; a page of many pictures must stay small enough to send.
_PICTURE, _FRAME = 144, 96


@dataclass(frozen=True)
class SourceInfo:
    """A source of the mixture. share: its share of the mixture's records."""

    name: str
    records: int
    share: float


@dataclass(frozen=True)
class Head:
    """The previewed config. max_dropped: the share of dropped records that training allows."""

    config: str
    tokenizer: str
    shape: SequenceShape
    sources: Sequence[SourceInfo]
    max_dropped: float


@dataclass(frozen=True)
class Sizes:
    """Tokens, pictures and videos of each record, before it is cut."""

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
    """The HTML file. max_rows: the number of sequences shown of each batch."""
    unpacked = [unpack(batch, head.shape.media) for batch in batches]
    lengths = np.asarray(sizes.lengths)
    return render(
        __package__,
        "preview.html",
        title=f"The data of {head.config}",
        head=head,
        facts=_facts(head),
        mixture=[
            Share(f"{source.name} ({count(source.records, 'record')})", source.share)
            for source in head.sources
        ],
        records=len(lengths),
        longer=float(np.mean(lengths > head.shape.length)) if len(lengths) else 0,
        charts=[*_lengths(lengths, head.shape.length), _fills(unpacked)],
        media=_media(sizes),
        drops=drops,
        most_listed=_MOST_LISTED,
        most_unfolded=_MOST_UNFOLDED,
        batches=unpacked,
        max_rows=max_rows,
        pieces=lambda words: _pieces(words, tokenizer),
        frames=_frames,
    )


def _facts(head: Head) -> dict[str, str]:
    shape = head.shape
    capacity = [f"{shape.length:,} tokens", count(shape.image_slots, "picture")]
    if shape.video_slots:
        capacity.append(f"{count(shape.video_slots, 'video')} of {shape.frames} frames")
    videos = {"Video": f"{shape.media.video} tokens"} if shape.video_slots else {}
    return {
        "Tokenizer": head.tokenizer,
        "Capacity of a packed sequence": ", ".join(capacity),
        "Picture": f"{shape.media.image} tokens",
        **videos,
        "Image size": f"{shape.image_size} × {shape.image_size} pixels",
    }


def _lengths(lengths: np.ndarray, sequence_length: int) -> list[Chart]:
    """The histogram of the lengths; no chart if there are no records."""
    if not len(lengths):
        return []
    middle, high = np.percentile(lengths, (50, 95))
    marks = [
        Mark("median", middle, f"{middle:,.0f}"),
        Mark("95th percentile", high, f"{high:,.0f}"),
        Mark("sequence", sequence_length, f"{sequence_length:,}"),
    ]
    # A few very long records would squeeze the others.
    end = max(1.5 * sequence_length, 1.1 * high)
    return [
        histogram(
            "Length of the records",
            lengths.tolist(),
            "tokens",
            marks=marks,
            end=end if lengths.max() > end else None,
        )
    ]


def _fills(batches: Sequence[Sequence[UnpackedSequence]]) -> Chart:
    fills = [100 * sequence.fill for batch in batches for sequence in batch]
    mean = [Mark("mean", float(np.mean(fills)), f"{np.mean(fills):.1f}%")] if fills else []
    return histogram(
        "Fill of the sequences", fills, "% of the tokens", marks=mean, end=100, width=5
    )


def _media(sizes: Sizes) -> list[Share]:
    kinds = Counter(zip(sizes.videos, sizes.images, strict=True))
    shares = []
    for (videos, images), number in sorted(kinds.items()):
        parts = [
            count(of_kind, noun)
            for of_kind, noun in ((images, "picture"), (videos, "video"))
            if of_kind
        ]
        shares.append(Share(" and ".join(parts) or "text-only", number / kinds.total()))
    return shares


def _pieces(words: Words, tokenizer: Tokenizer) -> list[tuple[str, bool]]:
    """Pieces (text, is_special); each special token is a piece, whose text is the token's name."""
    names = {tokenizer.pad_id: "<pad>", **tokenizer.special_tokens}

    def name(token: int) -> str:
        return names.get(token, "" if 0 <= token < tokenizer.vocab_size else f"<{token}>")

    pieces = []
    for special, group in itertools.groupby(words.ids, key=name):
        ids = list(group)
        pieces += [(special, True)] * len(ids) if special else [(tokenizer.decode(ids), False)]
    return pieces


def _frames(medium: Medium) -> list[dict[str, Any]]:
    """Arguments of `picture` for a picture, or for each frame of a video."""
    if not medium.is_video:
        return [{"image": Image.fromarray(medium.pixels), "alt": "picture", "thumbnail": _PICTURE}]
    return [
        {
            "image": Image.fromarray(pixels),
            "alt": f"frame {number} of {len(medium.pixels)}",
            "thumbnail": _FRAME,
        }
        for number, pixels in enumerate(medium.pixels, start=1)
    ]
