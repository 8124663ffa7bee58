"""Streams tokens as text."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from owl_jax.text.tokenizer import StreamDecoder, Tokenizer


def decode_stream(tokens: Iterable[int], tokenizer: Tokenizer) -> Iterator[str]:
    """Yields the text that each token adds; "" until the tokens of a character are complete."""
    decoder = StreamDecoder(tokenizer)
    for token in tokens:
        yield decoder.push(token)
    yield decoder.finish()


def up_to(mark: str, pieces: Iterable[str]) -> Iterator[str]:
    """Yields nonempty text up to `mark`; holds back an end that may be the start of `mark`."""
    held = ""
    for piece in pieces:
        held += piece
        text, found, _ = held.partition(mark)
        if not found:
            begun = next(n for n in reversed(range(len(mark))) if held.endswith(mark[:n]))
            text = held[: len(held) - begun]
        held = held[len(text) :]
        if text:
            yield text
        if found:
            return
    if held:
        yield held
