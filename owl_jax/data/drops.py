"""Dropped records: counts them by reason, lists each once, and stops a run that drops too many.

A dropped record is never replaced by another one.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from absl import logging

from owl_jax.errors import BadData, UserError, printable
from owl_jax.files import open_regular

# The share of dropped records is checked once this many have been seen.
_RECORDS_BEFORE_CHECK = 100

# Without a limit, the list for a web-scale data set would fill the memory.
_LONGEST_LIST = 100_000
_MOST_LOGGED = 20


@dataclass(frozen=True)
class Dropped:
    """A record that cannot be used, and why.

    where: its file and line, or what the source uses instead. reason: its category, for counts.
    message: for the user; begins with `where`.
    """

    where: str
    reason: str
    message: str

    @classmethod
    def of(cls, error: BadData, where: str) -> Dropped:
        return cls(where, error.reason, str(error))

    def to_json(self) -> str:
        """A line of skipped.jsonl."""
        return json.dumps(asdict(self), ensure_ascii=False)


def too_many(dropped: int, seen: int, limit: float) -> bool:
    """Whether the share of dropped records is significantly above `limit`.

    The share in a sample varies, so up to three standard deviations above the limit are allowed.
    False before 100 records.
    """
    allowed = limit * seen + 3 * math.sqrt(limit * seen)
    return seen >= _RECORDS_BEFORE_CHECK and (dropped > allowed or dropped == seen)


class DropLog:
    """Counts and lists dropped records; stops the run when their share exceeds `limit`.

    A run without any usable record stops at any limit, because it would never end.

    Args:
      limit: the share of records that may be dropped.
      file: receives one {"where", "reason", "message"} per line. A record is listed only once,
        also if it is dropped in several epochs or again after a resume.

    Attributes, counted since the start of this process:
      seen: all records, dropped ones included.
      used: records that became examples with all their media.
      text_only: records that were kept and have no media.
      unread: records with a key that looks like media but is not read, by key.
      reasons: dropped records, by reason.
      dropped: the list, without repetitions.
    """

    def __init__(self, limit: float, file: Path | None = None) -> None:
        self.limit = limit
        self.seen = self.used = self.text_only = 0
        self.unread: Counter[str] = Counter()
        self.reasons: Counter[str] = Counter()
        self.dropped: list[Dropped] = []
        self._listed: set[str] = set()
        self._file = file
        self._undecoded = 0
        if file and file.exists():
            self._read_list(file)

    def keep(self, item: Any) -> bool:
        """Counts a record as seen; False if it is dropped. Raises UserError as `drop` does."""
        self.seen += 1
        if isinstance(item, Dropped):
            self._count(item)
            return False
        return True

    def note(self, where: str, is_text_only: bool, unread: Sequence[str]) -> None:
        """Updates `text_only` and `unread` for a record that was kept."""
        self.text_only += is_text_only
        for key in unread:
            if key not in self.unread and len(self.unread) < _MOST_LOGGED:
                logging.warning(
                    '%s: "%s" looks like a picture or video but is not read; other keys hold media',
                    printable(where),
                    printable(key),
                )
            self.unread[key] += 1

    def summary(self) -> str:
        """One line of counts since the start of this process."""
        dropped = self.reasons.total()
        reasons = ", ".join(f"{reason}: {n:,}" for reason, n in self.reasons.most_common())
        unread = "".join(f', "{key}" of {n:,} not read' for key, n in self.unread.most_common(8))
        return printable(
            f"data: {self.seen:,} records read, {self.text_only:,} without picture or video, "
            f"{dropped:,} dropped{f' ({reasons})' if reasons else ''}{unread}"
        )

    def use(self) -> None:
        """Counts a record as used."""
        self.used += 1

    def drop(self, item: Dropped) -> None:
        """Drops a record that was kept before. Raises UserError if too many are dropped."""
        self._undecoded += 1
        self._count(item)
        if not self.used and self._undecoded >= _RECORDS_BEFORE_CHECK:
            self._stop(item)

    def _count(self, item: Dropped) -> None:
        self.reasons[item.reason] += 1
        if self._list(item):
            if len(self.dropped) <= _MOST_LOGGED:
                logging.warning("dropped (%s): %s", item.reason, printable(item.message))
            if len(self.dropped) == _MOST_LOGGED:
                rest = f"listed in {self._file}" if self._file else "not logged"
                logging.warning("further drops are %s", rest)
            if self._file:
                self._file.parent.mkdir(parents=True, exist_ok=True)
                with self._file.open("a", encoding="utf-8") as file:
                    file.write(_printable(item.to_json()) + "\n")
        if too_many(self.reasons.total(), self.seen, self.limit):
            self._stop(item)

    def _stop(self, last: Dropped) -> None:
        by_reason = ", ".join(f"{reason}: {n}" for reason, n in self.reasons.most_common())
        listed = f" All are listed in {self._file}." if self._file else ""
        raise UserError(
            f"{self.reasons.total()} of {self.seen} records were dropped ({by_reason}), more than "
            f"data.max_dropped={self.limit} allows; fix the data, or raise the limit.{listed} The "
            f"last one: {last.message}"
        )

    def _list(self, item: Dropped) -> bool:
        """Adds a record to the list; False if it was there already or the list is full."""
        if item.where in self._listed or len(self._listed) >= _LONGEST_LIST:
            return False
        self._listed.add(item.where)
        self.dropped.append(item)
        return True

    def _read_list(self, file: Path) -> None:
        """Reads the list of an earlier run; removes an incomplete last line."""
        try:
            with open_regular(file) as opened:
                whole, newline, half = opened.read().decode().rpartition("\n")
        except OSError as error:
            raise UserError(f"{file}: cannot be read ({error.strerror}); move it away") from None
        except UnicodeDecodeError:
            raise UserError(
                f"{file}: damaged, it is not UTF-8; expected a list of dropped records; move the "
                "file away"
            ) from None
        if half:
            file.write_text(whole + newline, encoding="utf-8")
        # Not splitlines: a file name may contain other Unicode line separators.
        for line in whole.split("\n") if whole else ():
            try:
                self._list(Dropped(**json.loads(line)))
            except (ValueError, TypeError, RecursionError):
                raise UserError(
                    f"{file}: {line[:80]!r} does not describe a dropped record; move the file away"
                ) from None


def _printable(text: str) -> str:
    """Escapes what UTF-8 cannot encode: a file name may hold any bytes."""
    return text.encode("utf-8", "backslashreplace").decode()
