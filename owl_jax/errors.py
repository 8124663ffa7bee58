"""Errors that are about what the user gave, not about this code; and foreign text in messages.

File names, tensor names, JSON keys and a model's answers may hold anything: terminal escape
sequences, line breaks, a million characters. Every `UserError` escapes and caps its own message;
what is printed otherwise goes through `printable`, a value in a message through `shown`, a list of
things through `listed`.
"""

import re
from collections.abc import Iterable
from itertools import islice
from typing import Any

# POSIX errors of a device that takes no more: EFBIG, ENOSPC, EDQUOT. TensorStore reports them
# inside a ValueError as text.
_DISK_FULL = ("File too large", "No space left on device", "quota exceeded")

# C0 and C1 control characters, line and paragraph separators, what reverses the direction of text,
# and halves of characters, which no terminal or file in UTF-8 takes.
_UNPRINTABLE = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)

# Of a message: more than this much of its beginning and of its end is cut out of its middle.
_HEAD, _TAIL = 1_200, 400


class UserError(Exception):
    """Bad input that the user can mend.

    The message is one line: what was found, what was expected and how to fix it. Commands print it
    without a traceback and exit with a status other than zero.
    """

    def __str__(self) -> str:
        return capped(printable(str(self.args[-1]) if self.args else ""))


class Ended(Exception):
    """A run has ended early on purpose, and nothing is lost: the message says how to go on.

    Commands print it and exit with `status`.
    """

    status = 0


class BadData(UserError):
    """One record, or one picture or video of it, that cannot be used: it is dropped and counted.

    Args:
      reason: a few words to count by ("missing file"), the same for every case of its kind.
      message: what was found where, for the person who mends it.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(reason, message)  # both, so that it survives pickling
        self.reason = reason


def printable(text: str, keep: str = "") -> str:
    """`text` with what would steer a terminal or break a line written as an escape: `\\x1b`.

    keep: characters that pass all the same; "\\n\\t" for a text of several lines.
    """
    return _UNPRINTABLE.sub(lambda found: found[0] if found[0] in keep else _escape(found[0]), text)


def capped(text: str) -> str:
    """A message of bounded length: of a longer one its beginning and its end."""
    if len(text) <= _HEAD + _TAIL + 5:
        return text
    return f"{text[:_HEAD]} ... {text[-_TAIL:]}"


def shown(value: Any, most: int = 60) -> str:
    """A value that is not ours as a short piece of a message: its repr, one line, cut at `most`."""
    # A text is cut first: the repr of 200 MB would be made only to be thrown away.
    text = repr(value[: most + 1] if isinstance(value, str | bytes) else value)
    text = printable(" ".join(text.split()))
    return text if len(text) <= most else f"{text[:most]}..."


def listed(items: Iterable[Any], most: int = 8, separator: str = ", ") -> str:
    """`items` as one piece of a message: the first `most`, and how many more there are."""
    rest = iter(items)
    first = [str(item) for item in islice(rest, most)]
    more = sum(1 for _ in rest)
    return separator.join(first) + (f"{separator}and {more:,} more" if more else "")


def one_line(error: BaseException) -> str:
    """What another library says went wrong, as one line to put into a message."""
    return " ".join(str(error).split()) or type(error).__name__


def disk_full(error: BaseException) -> str | None:
    """In the system's words, if that is what `error` tells of."""
    return next((reason for reason in _DISK_FULL if reason in str(error)), None)


def _escape(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")
