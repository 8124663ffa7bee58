"""Added tokens: strings that are always one token; text is split at them before tokenising."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

_SPACES = re.compile(r"\s*")


@dataclass(frozen=True)
class AddedToken:
    """A string that is always one token.

    special: decoding omits it. lstrip, rstrip: it absorbs white space before or after it.
    single_word, normalized: as in the tokenizers library. source: the file that adds it.
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
    """Splits a text at added tokens: left to right, the longest match at each position.

    It looks up substrings in a dict, because a regular expression would try its alternatives one
    by one and some models add thousands.
    """

    def __init__(self, tokens: Mapping[str, AddedToken]) -> None:
        self._tokens = dict(tokens)
        lengths: dict[str, set[int]] = defaultdict(set)
        for content in tokens:
            lengths[content[0]].add(len(content))
        self._lengths = {first: sorted(found, reverse=True) for first, found in lengths.items()}
        firsts = "".join(map(re.escape, self._lengths))
        self._first = re.compile(f"[{firsts}]" if firsts else "(?!)")

    def token(self, content: str) -> AddedToken | None:
        """The token with this content, or None."""
        return self._tokens.get(content)

    def split(self, text: str) -> Iterator[str | AddedToken]:
        """The tokens in `text` and the nonempty text between them, in order."""
        start = position = 0
        while found := self._first.search(text, position):
            position = found.start()
            token = self._at(text, position)
            if token is None:
                position += 1
                continue
            between = text[start:position]
            if token.lstrip:
                between = between.rstrip()
            if between:
                yield between
            yield token
            position += len(token.content)
            if token.rstrip:
                position = _SPACES.match(text, position).end()  # type: ignore[union-attr]
            start = position
        if start < len(text):
            yield text[start:]

    def _at(self, text: str, position: int) -> AddedToken | None:
        for length in self._lengths[text[position]]:
            if token := self._tokens.get(text[position : position + length]):
                return token
        return None
