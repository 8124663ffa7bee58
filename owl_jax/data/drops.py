"""What is dropped: counted by reason, listed once by its place, and the end of a run of too many.

Nothing stands in for a record that is dropped.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from absl import logging

from owl_jax.errors import BadData, UserError

# The share of dropped records is judged once this many have been seen.
_RECORDS_BEFORE_JUDGING = 100

# A list that is longer helps nobody, and a web-scale data set would fill the memory with it.
_LONGEST_LIST = 100_000


@dataclass(frozen=True)
class Dropped:
    """A record that cannot be used, and why. The message begins with its place and ": "."""

    reason: str
    message: str

    @classmethod
    def of(cls, error: BadData) -> Dropped:
        return cls(error.reason, str(error))

    @property
    def where(self) -> str:
        """Its file and line, or what the source has instead."""
        return self.message.partition(": ")[0]


class DropLog:
    """Counts and lists what is dropped; stops the run when its share passes `limit`.

    A run that has not seen a single usable record stops whatever the limit: it would never end.

    Args:
      limit: the share of records that may be dropped.
      file: gets one {"where", "reason", "message"} a line. A place is listed once, however often
        its record comes up, also when the run is resumed.

    Attributes:
      seen: records that came by since the start of this process, dropped ones included.
      reasons: how many of them were dropped, by reason.
      dropped: the list, without repetitions.
    """

    def __init__(self, limit: float, file: Path | None = None) -> None:
        self.limit = limit
        self.seen = 0
        self.reasons: Counter[str] = Counter()
        self.dropped: list[Dropped] = []
        self._places: set[str] = set()
        self._file = file
        if file and file.exists():
            whole, newline, half = file.read_text(encoding="utf-8").rpartition("\n")
            if half:  # the run was killed while it was written
                file.write_text(whole + newline, encoding="utf-8")
            for line in whole.splitlines():
                values = json.loads(line)
                self._list(Dropped(values["reason"], values["message"]))

    def keep(self, item: Any) -> bool:
        """Counts a record as seen; False for one that is dropped. Raises UserError as `drop`."""
        self.seen += 1
        if isinstance(item, Dropped):
            self.drop(item)
            return False
        return True

    def drop(self, item: Dropped) -> None:
        """Counts and lists it. Raises UserError if that makes too many."""
        self.reasons[item.reason] += 1
        if self._list(item):
            logging.warning("dropped (%s): %s", item.reason, item.message)
            if self._file:
                line = {"where": item.where, "reason": item.reason, "message": item.message}
                self._file.parent.mkdir(parents=True, exist_ok=True)
                # A file's name may hold bytes that are no text.
                with self._file.open("a", encoding="utf-8", errors="backslashreplace") as file:
                    file.write(json.dumps(line, ensure_ascii=False) + "\n")
        count = self.reasons.total()
        too_many = count > self.limit * self.seen or count == self.seen
        if self.seen >= _RECORDS_BEFORE_JUDGING and too_many:
            by_reason = ", ".join(f"{reason}: {n}" for reason, n in self.reasons.most_common())
            listed = f" All are listed in {self._file}." if self._file else ""
            raise UserError(
                f"{count} of {self.seen} records were dropped ({by_reason}), allowed is a share of "
                f"data.max_dropped={self.limit}; mend the data or allow more.{listed} The last "
                f"one: {item.message}"
            )

    def _list(self, item: Dropped) -> bool:
        """Whether it was not in the list, and is now."""
        if item.where in self._places or len(self._places) >= _LONGEST_LIST:
            return False
        self._places.add(item.where)
        self.dropped.append(item)
        return True
