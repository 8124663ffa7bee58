"""Streams tokens as text."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from owl_jax.text.tokenizer import StreamDecoder, Tokenizer


def decode_stream(tokens: Iterable[int], tokenizer: Tokenizer) -> Iterator[str]:
    """Yields the text that each token adds; "" until the tokens of a character are complete."""
    decoder = StreamDecoder(tokenizer)
    for token in tokens:
        yield decoder.push(token)
    yield decoder.finish()


def up_to(marks: str | Sequence[str], pieces: Iterable[str]) -> Iterator[str]:
    """Yields nonempty text up to the first of `marks`; holds back an end that may begin one."""
    marks = (marks,) if isinstance(marks, str) else marks
    held = ""
    for piece in pieces:
        held += piece
        places = [place for mark in marks if (place := held.find(mark)) >= 0]
        text = held[: min(places, default=len(held) - _begun(held, marks))]
        held = held[len(text) :]
        if text:
            yield text
        if places:
            return
    if held:
        yield held


def without_start(start: str, pieces: Iterable[str]) -> Iterator[str]:
    """Yields nonempty text without `start`, if it begins with it."""
    held, is_held = "", bool(start)
    for piece in pieces:
        held += piece
        if is_held and len(held) < len(start) and start.startswith(held):
            continue
        text, held = held.removeprefix(start) if is_held else held, ""
        is_held = False
        if text:
            yield text
    if held:
        yield held


def _begun(text: str, marks: Sequence[str]) -> int:
    """The length of the longest end of `text` that may be the beginning of a mark."""
    lengths = (n for mark in marks for n in range(1, len(mark)) if text.endswith(mark[:n]))
    return max(lengths, default=0)
