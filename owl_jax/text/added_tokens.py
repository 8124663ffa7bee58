"""Texts that are one token wherever they appear: found before what lies between is cut."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

_SPACES = re.compile(r"\s*")


@dataclass(frozen=True)
class AddedToken:
    """A text that is one token.

    special: decoding leaves it out. lstrip, rstrip: it takes the white space before it, after it.
    single_word, normalized: as in the tokenizers library. source: the file that names it.
    """

    content: str
    id: int
    special: bool = False
    lstrip: bool = False
    rstrip: bool = False
    single_word: bool = False
    normalized: bool = True
    source: str = ""


class Splitter:
    """Finds added tokens in a text: the first from the left, the longest of those that begin there.

    By length and hash, not by one pattern of all: re tries its alternatives one by one, and some
    models add thousands.
    """

    def __init__(self, tokens: Mapping[str, AddedToken]) -> None:
        self._tokens = dict(tokens)
        lengths: dict[str, set[int]] = defaultdict(set)
        for content in tokens:
            lengths[content[0]].add(len(content))
        self._lengths = {first: sorted(all, reverse=True) for first, all in lengths.items()}
        firsts = "".join(map(re.escape, self._lengths))
        self._first = re.compile(f"[{firsts}]" if firsts else "(?!)")

    def split(self, text: str) -> Iterator[str | AddedToken]:
        """The tokens in `text` and the stretches between them, in order; no stretch is empty."""
        start = place = 0
        while found := self._first.search(text, place):
            place = found.start()
            token = self._at(text, place)
            if token is None:
                place += 1
                continue
            stretch = text[start:place]
            if token.lstrip:
                stretch = stretch.rstrip()
            if stretch:
                yield stretch
            yield token
            place += len(token.content)
            if token.rstrip:
                place = _SPACES.match(text, place).end()  # type: ignore[union-attr]
            start = place
        if start < len(text):
            yield text[start:]

    def _at(self, text: str, place: int) -> AddedToken | None:
        for length in self._lengths[text[place]]:
            if token := self._tokens.get(text[place : place + length]):
                return token
        return None
