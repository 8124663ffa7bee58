"""Errors about the user's input, and safe messages with untrusted text.

File names, tensor names, JSON keys and a model's answers may contain anything: terminal escape
sequences, line breaks, a million characters. Every `UserError` escapes and caps its own message;
other printed text goes through `printable`, a value in a message through `shown`, a list through
`listed`.
"""

import re
from collections.abc import Iterable
from itertools import islice
from typing import Any

# Messages of EFBIG, ENOSPC and EDQUOT. TensorStore reports them as text inside a ValueError.
_DISK_FULL = ("File too large", "No space left on device", "quota exceeded")

# C0 and C1 control characters, line and paragraph separators, bidirectional controls, and
# surrogates, which UTF-8 cannot encode.
_UNPRINTABLE = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)

# A capped message keeps this many characters of its beginning and of its end.
_HEAD, _TAIL = 1_200, 400


class UserError(Exception):
    """Bad input that the user can fix.

    The message is one line: what was found, what was expected and how to fix it. Commands print it
    without a traceback and exit with a status other than zero.
    """

    def __str__(self) -> str:
        return capped(printable(str(self.args[-1]) if self.args else ""))


class Ended(Exception):
    """A run ended early on purpose, with everything saved; the message says how to resume.

    Commands print it and exit with `status`.
    """

    status = 0


class BadData(UserError):
    """An unusable record, or picture or video of a record; the record is dropped and counted.

    Args:
      reason: the category for counting, such as "missing file".
      message: what was found, and where.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(reason, message)  # both, for pickling
        self.reason = reason


def printable(text: str, keep: str = "") -> str:
    """`text` with control characters and line breaks escaped: `\\x1b`.

    keep: characters that are not escaped; "\\n\\t" for text of several lines.
    """
    return _UNPRINTABLE.sub(lambda found: found[0] if found[0] in keep else _escape(found[0]), text)


def capped(text: str) -> str:
    """Bounds the length of a message: a longer one keeps its beginning and its end."""
    if len(text) <= _HEAD + _TAIL + 5:
        return text
    return f"{text[:_HEAD]} ... {text[-_TAIL:]}"


def shown(value: Any, most: int = 60) -> str:
    """An untrusted value for a message: its repr on one line, cut at `most` characters."""
    # Cut before repr, which would be slow for a text of 200 MB.
    text = repr(value[: most + 1] if isinstance(value, str | bytes) else value)
    text = printable(" ".join(text.split()))
    return text if len(text) <= most else f"{text[:most]}..."


def listed(items: Iterable[Any], most: int = 8, separator: str = ", ") -> str:
    """Items for a message: the first `most`, and the number of the others."""
    rest = iter(items)
    first = [str(item) for item in islice(rest, most)]
    more = sum(1 for _ in rest)
    return separator.join(first) + (f"{separator}and {more:,} more" if more else "")


def one_line(error: BaseException) -> str:
    """Another library's error message as one line."""
    return " ".join(str(error).split()) or type(error).__name__


def disk_full(error: BaseException) -> str | None:
    """The system's message, if `error` means that the disk is full."""
    return next((reason for reason in _DISK_FULL if reason in str(error)), None)


def _escape(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")
