"""From an answer's tokens, as they come, to its words."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from owl_jax.text.tokenizer import StreamDecoder, Tokenizer


def words(tokens: Iterable[int], tokenizer: Tokenizer) -> Iterator[str]:
    """What each token adds to the text; some add nothing until the next."""
    decoder = StreamDecoder(tokenizer)
    for token in tokens:
        yield decoder.push(token)
    yield decoder.finish()


def up_to(mark: str, pieces: Iterable[str]) -> Iterator[str]:
    """The pieces up to `mark`; an end that may be its beginning is held back. None is empty."""
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
