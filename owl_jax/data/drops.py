"""What is dropped: counted by reason, listed once by its place, and the end of a run of too many.

Nothing stands in for a record that is dropped.
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

# The share of dropped records is judged once this many have been seen.
_RECORDS_BEFORE_JUDGING = 100

# A list that is longer helps nobody, and a web-scale data set would fill the memory with it.
_LONGEST_LIST = 100_000
_MOST_LOGGED = 20


@dataclass(frozen=True)
class Dropped:
    """A record that cannot be used, and why.

    where: its file and line, or what the source has instead. reason: to count by. message: for the
    person who mends it; begins with the place.
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
    """Whether more records were dropped than a share of `limit` would explain.

    A sample's share goes up and down around that of the data: allowed are three standard deviations
    above the limit, and nothing is judged before 100 records.
    """
    allowed = limit * seen + 3 * math.sqrt(limit * seen)
    return seen >= _RECORDS_BEFORE_JUDGING and (dropped > allowed or dropped == seen)


class DropLog:
    """Counts and lists what is dropped; stops the run when its share passes `limit`.

    A run that sees no usable record stops whatever the limit: it would never end.

    Args:
      limit: the share of records that may be dropped.
      file: gets one {"where", "reason", "message"} a line. A place is listed once, however often
        its record comes up, also when the run is resumed.

    Attributes:
      seen: records that came by since the start of this process, dropped ones included.
      used: those of them that became examples with all their media.
      text_only: those of them without picture or video that were not dropped.
      unread: how many had a key that looks like media and is not read, by key.
      reasons: how many of them were dropped, by reason.
      dropped: the list, without repetitions.
    """

    def __init__(self, limit: float, file: Path | None = None) -> None:
        self.limit = limit
        self.seen = self.used = self.text_only = 0
        self.unread: Counter[str] = Counter()
        self.reasons: Counter[str] = Counter()
        self.dropped: list[Dropped] = []
        self._places: set[str] = set()
        self._file = file
        self._undecoded = 0
        if file and file.exists():
            self._read_list(file)

    def keep(self, item: Any) -> bool:
        """Counts a record as seen; False for one that is dropped. Raises UserError as `drop`."""
        self.seen += 1
        if isinstance(item, Dropped):
            self._count(item)
            return False
        return True

    def note(self, where: str, is_text_only: bool, unread: Sequence[str]) -> None:
        """Counts what is to be known of a record that was kept; `Attributes` above."""
        self.text_only += is_text_only
        for key in unread:
            if key not in self.unread and len(self.unread) < _MOST_LOGGED:
                logging.warning(
                    'not read: "%s" of %s looks like a picture or video; other keys hold its media',
                    printable(key),
                    printable(where),
                )
            self.unread[key] += 1

    def summary(self) -> str:
        """What was read since the start of this process, in one line."""
        dropped = self.reasons.total()
        reasons = ", ".join(f"{reason}: {n:,}" for reason, n in self.reasons.most_common())
        unread = "".join(f', "{key}" of {n:,} not read' for key, n in self.unread.most_common(8))
        return printable(
            f"data: {self.seen:,} records read, {self.text_only:,} without picture or video, "
            f"{dropped:,} dropped{f' ({reasons})' if reasons else ''}{unread}"
        )

    def use(self) -> None:
        """Counts a record as used, media and all."""
        self.used += 1

    def drop(self, item: Dropped) -> None:
        """Counts and lists a record that was kept. Raises UserError if it is one too many."""
        self._undecoded += 1
        self._count(item)
        if not self.used and self._undecoded >= _RECORDS_BEFORE_JUDGING:
            self._stop(item)

    def _count(self, item: Dropped) -> None:
        self.reasons[item.reason] += 1
        if self._list(item):
            if len(self.dropped) <= _MOST_LOGGED:
                logging.warning("dropped (%s): %s", item.reason, printable(item.message))
            if len(self.dropped) == _MOST_LOGGED:
                logging.warning("more that is dropped is listed in %s", self._file or "no file")
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
            f"{self.reasons.total()} of {self.seen} records were dropped ({by_reason}), allowed is "
            f"a share of data.max_dropped={self.limit}; mend the data or allow more.{listed} The "
            f"last one: {last.message}"
        )

    def _list(self, item: Dropped) -> bool:
        """Whether it was not in the list, and is now."""
        if item.where in self._places or len(self._places) >= _LONGEST_LIST:
            return False
        self._places.add(item.where)
        self.dropped.append(item)
        return True

    def _read_list(self, file: Path) -> None:
        """Takes over the list of an earlier run, but for a line that was cut by its end."""
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
        # Not splitlines: a file's name may hold what Unicode takes for the end of a line.
        for line in whole.split("\n") if whole else ():
            try:
                self._list(Dropped(**json.loads(line)))
            except (ValueError, TypeError, RecursionError):
                raise UserError(
                    f"{file}: {line[:80]!r} is no line of a list of dropped records; move the file "
                    "away"
                ) from None


def _printable(text: str) -> str:
    """The text, with what is none spelled out: a file's name may hold any bytes."""
    return text.encode("utf-8", "backslashreplace").decode()
