"""A conversation as a list of turns, in no particular format: who said what, with media in place.

Records and prompts are text in mPLUG-Owl's format (text/conversation.py). `turns_of` parses such
text, and a conversation format (text/formats/) writes the turns as its model expects them.
"""

from __future__ import annotations

import functools
import itertools
import operator
import re
from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple, TypeAlias

from owl_jax.text.media_index import IMAGE_ID, VIDEO_ID

SYSTEM = (
    "The following is a conversation between a curious human and AI assistant. The assistant gives "
    "helpful, detailed, and polite answers to the user's questions."
)
IMAGE_TOKEN = "<image>"
VIDEO_TOKEN = "<|video|>"
MEDIA_IDS = {IMAGE_TOKEN: IMAGE_ID, VIDEO_TOKEN: VIDEO_ID}

Role = Literal["system", "user", "assistant"]
Content: TypeAlias = str | int  # a text, or the input id of a medium

_MARKS = re.compile(r"(<image>|<\|video\|>|^Human: |^AI: |^AI:\Z)", re.MULTILINE)
_SPEAKERS: dict[str, Role] = {"Human:": "user", "AI:": "assistant"}
# The space that text/messages.py puts before a message's own line that looks like a mark.
_ESCAPED = re.compile(r"(?<=\n) (?=(?:Human|AI):)")
# Encloses the white space at an end of a message: built-in formats leave it out, a model's own
# chat template sees it. A private character that no text contains.
_EDGE = "\U000ffff2"
_MARGIN = re.compile(rf"{_EDGE}\s*{_EDGE}")


class Turn(NamedTuple):
    """What one speaker says: texts and media in order."""

    role: Role
    contents: tuple[Content, ...]


def turns_of(text: str, margins: bool = False) -> list[Turn]:
    """The turns of a text in mPLUG-Owl's format; no two consecutive ones have the same role.

    The text before the first "Human: " is the system message. SYSTEM or an empty one is left out,
    so that a format uses its own. The text is the user's instead if it contains media or is
    not followed by "Human: ". An unfinished or empty answer at the end is a turn.

    White space at either end of a turn is left out. margins: keep what `with_margins` marked.
    """
    text = text if margins else without_margins(text)
    found: list[tuple[Role, list[Content]]] = [("system", [])]
    # One group: split returns text at even indices, marks at odd ones.
    for i, part in enumerate(_MARKS.split(text)):
        role, contents = found[-1]
        if i % 2 == 0:
            contents.append(part)
        elif part in MEDIA_IDS:
            contents.append(MEDIA_IDS[part])
        elif (speaker := _SPEAKERS[part.rstrip()]) != role:
            found.append((speaker, []))
    first = found[0][1]
    if isinstance(first[0], str) and first[0].startswith(SYSTEM):
        first[0] = first[0][len(SYSTEM) :]
    following = found[1][0] if len(found) > 1 else None
    if following != "user":
        found[0] = ("user", first)
    elif any(isinstance(content, int) for content in first):
        found[:2] = [("user", [*first, *found[1][1]])]
    kept = [said for said in found if said[0] == "assistant" or _trimmed(said[1])]
    # Without an empty turn, its neighbours are one.
    turns = [
        Turn(role, _trimmed([content for _, contents in same for content in contents]))
        for role, same in itertools.groupby(kept, key=operator.itemgetter(0))
    ]
    return [
        Turn(role, tuple(c.replace(_EDGE, "") if isinstance(c, str) else c for c in contents))
        for role, contents in turns
    ]


def with_margins(text: str, before: bool, after: bool) -> str:
    """A text with the white space at its start and end marked, so that `turns_of` can keep it.

    before, after: which of the two to keep; the other is left out.
    """
    text = text.replace(_EDGE, "")
    inner = text.lstrip()
    start = text[: len(text) - len(inner)] if before else ""
    text, inner = inner, inner.rstrip()
    end = text[len(inner) :] if after else ""
    return "".join((_margin(start), inner, _margin(end)))


def _margin(space: str) -> str:
    return space and f"{_EDGE}{space}{_EDGE}"


def without_margins(text: str) -> str:
    """A text in mPLUG-Owl's format without the white space that `with_margins` marked."""
    return _MARGIN.sub("", text)


def with_broken_marks(turns: Sequence[Turn], marks: Iterable[str]) -> list[Turn]:
    """The turns with a space inside each of `marks`, so that no message can open or end a turn."""
    pattern = _pattern(frozenset(mark for mark in marks if len(mark) > 1))
    return [
        Turn(
            turn.role,
            tuple(
                pattern.sub(_broken, content) if isinstance(content, str) else content
                for content in turn.contents
            ),
        )
        for turn in turns
    ]


@functools.lru_cache
def _pattern(marks: frozenset[str]) -> re.Pattern[str]:
    longest_first = sorted(marks, key=lambda mark: (-len(mark), mark))
    return re.compile("|".join(map(re.escape, longest_first)) or "(?!)")


def _broken(mark: re.Match[str]) -> str:
    return f"{mark[0][0]} {mark[0][1:]}"


def _trimmed(contents: Sequence[Content]) -> tuple[Content, ...]:
    """Contents without escapes, empty texts, or white space at either end."""
    trimmed: list[Content] = []
    for content in contents:
        if isinstance(content, str) and trimmed and isinstance(trimmed[-1], str):
            trimmed[-1] += content
        else:
            trimmed.append(content)
    for i, content in enumerate(trimmed):
        if isinstance(content, str):
            content = _ESCAPED.sub("", content)
            content = content.lstrip() if i == 0 else content
            trimmed[i] = content.rstrip() if i == len(trimmed) - 1 else content
    return tuple(content for content in trimmed if content != "")
