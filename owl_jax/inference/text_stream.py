"""Streams tokens as an answer's text: piece by piece, without stop texts.

Every class is pushed what comes next and returns the text that is certain by then; `finish` returns
the rest. So the same code serves callers that pull tokens and those that are sent them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from owl_jax.text.tokenizer import StreamDecoder, Tokenizer


class UpTo:
    """Text up to the first of some marks; holds back an end that may begin one."""

    def __init__(self, marks: Sequence[str]) -> None:
        """marks: none empty."""
        self._marks = tuple(marks)
        self._held = ""
        self.found: str | None = None  # the mark that ended the text; what follows is dropped

    def push(self, piece: str) -> str:
        """The text that is certain not to belong to a mark."""
        if self.found is not None:
            return ""
        held = self._held + piece
        places = [(place, mark) for mark in self._marks if (place := held.find(mark)) >= 0]
        if places:
            end, self.found = min(places)
        else:
            end = len(held) - _begun(held, self._marks)
        self._held = held[end:]
        return held[:end]

    def finish(self) -> str:
        """The rest, in which no mark was completed."""
        return self._held if self.found is None else ""


class WithoutStart:
    """Text without `start`, if it begins with it."""

    def __init__(self, start: str) -> None:
        self._start = start
        self._held = ""

    def push(self, piece: str) -> str:
        """The text behind `start`, or all of it once it differs from `start`."""
        held = self._held + piece
        if self._start and len(held) < len(self._start) and self._start.startswith(held):
            self._held = held
            return ""
        text = held.removeprefix(self._start)
        self._start = self._held = ""
        return text

    def finish(self) -> str:
        """What is still held: the beginning of `start`, and nothing after it."""
        return self._held


class AnswerText:
    """The text of an answer, by tokens: up to a stop text, and without the format's start."""

    def __init__(self, tokenizer: Tokenizer, stops: Sequence[str] = (), start: str = "") -> None:
        """stops: texts that end the answer. start: text that precedes it and is not part of it."""
        self._decoder = StreamDecoder(tokenizer)
        self._up_to = UpTo(stops)
        self._without_start = WithoutStart(start)

    @property
    def is_stopped(self) -> bool:
        """Whether a stop text has ended the answer; later tokens are dropped."""
        return self._up_to.found is not None

    def push(self, token: int, *, may_stop: bool = True) -> str:
        """The text that `token` adds; "" while a character or a stop text is incomplete.

        may_stop: whether a stop text in this token's text ends the answer.
        """
        if self.is_stopped:
            return ""
        piece = self._decoder.push(token)
        return self._without_start.push(self._up_to.push(piece) if may_stop else piece)

    def finish(self) -> str:
        """The remaining text; an incomplete character becomes U+FFFD."""
        if not self.is_stopped:
            last = self._up_to.push(self._decoder.finish()) + self._up_to.finish()
            return self._without_start.push(last) + self._without_start.finish()
        return self._without_start.finish()


def answer_pieces(tokens: Iterable[int], text: AnswerText) -> Iterator[str]:
    """Yields nonempty text; takes no more tokens than it needs."""
    for token in tokens:
        if piece := text.push(token):
            yield piece
        if text.is_stopped:
            break
    if piece := text.finish():
        yield piece


def _begun(text: str, marks: Sequence[str]) -> int:
    """The length of the longest end of `text` that may be the beginning of a mark."""
    lengths = (n for mark in marks for n in range(1, len(mark)) if text.endswith(mark[:n]))
    return max(lengths, default=0)
