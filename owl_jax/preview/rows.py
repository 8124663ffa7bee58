"""Rows of a batch as HTML: a bar of what fills the row, then its conversations as cards.

Colour and number of a conversation are the same in the bar and on its card.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from html import escape

from PIL import Image

from owl_jax.pages.picture import picture
from owl_jax.preview.unpacking import Medium, Segment, UnpackedRow, Words
from owl_jax.text.tokenizer import Tokenizer

_COLORS = 4  # --lines-0 ... of pages/page.py

# Pixels of a side at most: a page of many pictures stays small enough to be sent to someone.
_PICTURE, _FRAME = 144, 96

STYLE = """
:root { --taught: #d5ecd9; }
@media (prefers-color-scheme: dark) { :root { --taught: #1f4a2e; } }
.facts td { width: 62%; }
.legend { display: flex; flex-wrap: wrap; gap: .2rem 1.5rem; font-size: .9rem; }
.row { margin: 1.25rem 0 2rem; }
.row summary { cursor: pointer; margin-bottom: .75rem; }
.row summary b { margin-right: .5rem; white-space: nowrap; }
.row summary span { color: var(--soft); margin-right: .5rem; white-space: nowrap; }
.fill { position: relative; height: 1.3rem; margin-top: .35rem; background: var(--rule);
  border-radius: 4px; overflow: hidden; }
.fill div { position: absolute; top: 0; bottom: 0; overflow: hidden; padding-left: .3rem;
  font-size: .8rem; line-height: 1.3rem; background: var(--color); color: var(--paper);
  border-right: 1px solid var(--paper); }
.segments { columns: 22rem; column-gap: 1rem; }
.segment { break-inside: avoid; margin-bottom: 1rem; border-top: 4px solid var(--color);
  font-size: .9rem; }
.segment h4 { margin: 0 0 .4rem; font-size: .85rem; font-weight: normal; color: var(--soft); }
.segment h4 b { color: var(--color); margin-right: .4rem; }
.words { white-space: pre-wrap; }
mark { background: var(--taught); color: inherit; border-radius: 3px; padding: .1em 0;
  -webkit-box-decoration-break: clone; box-decoration-break: clone; }
.special { color: var(--soft); font-size: .75em; }
.medium { display: inline-flex; flex-wrap: wrap; gap: .2rem; max-width: 100%;
  vertical-align: text-top; margin: .15rem 0; }
.medium img { min-width: 4rem; max-width: 100%; height: auto; border-radius: 3px; }
.medium span { flex-basis: 100%; color: var(--soft); font-size: .75rem; line-height: 1.2; }
.alarm { color: var(--wrong); font-weight: 600; }
.dropped { padding-left: 1.2rem; }
.dropped li { margin: .4rem 0; }
"""


def batch_section(
    number: int, rows: Sequence[UnpackedRow], tokenizer: Tokenizer, max_rows: int
) -> str:
    """A batch: its heading, the legend, and its first `max_rows` rows."""
    shown = "\n".join(
        _row(place, row, tokenizer) for place, row in enumerate(rows[:max_rows], start=1)
    )
    more = len(rows) - max_rows
    rest = f'\n<p class="soft">… {more:,} more rows</p>' if more > 0 else ""
    return f"<h2>Batch {number}</h2>\n{_LEGEND}\n{shown}{rest}"


_LEGEND = (
    '<div class="legend"><span><mark>the model learns to say this</mark></span>'
    "<span>it only reads this</span>"
    '<span><span class="special">&lt;s&gt;</span> special tokens</span></div>'
)


def _row(number: int, row: UnpackedRow, tokenizer: Tokenizer) -> str:
    facts = [
        f"{row.fill:.1%} of {row.length:,} positions",
        f"{row.images} of {row.image_slots} picture slots",
    ]
    if row.video_slots:
        facts.append(f"{row.videos} of {row.video_slots} video slots")
    facts.append(f"{sum(segment.supervised for segment in row.segments):,} tokens supervised")
    bar = "".join(
        f'<div style="{_color(place)};left:{100 * segment.start / row.length:.2f}%;'
        f'width:{100 * segment.length / row.length:.2f}%">{place}</div>'
        for place, segment in enumerate(row.segments, start=1)
    )
    cards = (
        _segment(place, segment, tokenizer) for place, segment in enumerate(row.segments, start=1)
    )
    return (
        f'<details class="row" open><summary><b>Row {number}</b>'
        f"{''.join(f' <span>{fact}</span>' for fact in facts)}\n"
        f'<div class="fill">{bar}</div></summary>\n'
        f'<div class="segments">\n{"".join(cards)}</div></details>'
    )


def _segment(number: int, segment: Segment, tokenizer: Tokenizer) -> str:
    parts = "".join(
        _words(part, tokenizer) if isinstance(part, Words) else _medium(part)
        for part in segment.parts
    )
    return (
        f'<div class="card segment" style="{_color(number)}"><h4><b>{number}</b>'
        f"{segment.length:,} positions, {segment.supervised:,} supervised</h4>\n"
        f'<div class="words">{parts}</div></div>\n'
    )


def _color(number: int) -> str:
    return f"--color:var(--lines-{(number - 1) % _COLORS})"


def _words(words: Words, tokenizer: Tokenizer) -> str:
    """Text of the tokens; those that are no text stand by their names."""
    names = {tokenizer.pad_id: "<pad>", tokenizer.bos_id: "<s>", tokenizer.eos_id: "</s>"}

    def name(token: int) -> str:
        return names.get(token, "" if 0 <= token < tokenizer.vocab_size else f"<{token}>")

    parts = []
    for special, group in itertools.groupby(words.ids, key=name):
        ids = list(group)
        if special:
            parts.append(f'<span class="special">{escape(special)}</span>' * len(ids))
        else:
            parts.append(escape(tokenizer.decode(ids)))
    text = "".join(parts)
    return f"<mark>{text}</mark>" if words.supervised else text


def _medium(medium: Medium) -> str:
    if medium.is_video:
        noun, frames, side = "video", list(medium.pixels), _FRAME
        alts = [f"frame {i} of {len(frames)}" for i in range(1, len(frames) + 1)]
    else:
        noun, frames, side, alts = "picture", [medium.pixels], _PICTURE, ["picture"]
    pictures = "".join(
        picture(Image.fromarray(pixels), alt, side)
        for pixels, alt in zip(frames, alts, strict=True)
    )
    said = f"{noun} in slot {medium.slot + 1}, {medium.positions} positions"
    return f'<span class="medium">{pictures}<span>{said}</span></span>'
