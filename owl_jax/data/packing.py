"""Packs conversations into sequences of L tokens and N + M media slots (Grain).

Online best fit over a window of open rows; a row is a sequence that is being filled. A conversation
goes into the fullest row that has room for its tokens and its media. If no row has room and the
window is full, the packer closes a row and opens a new one. It closes the oldest row if that has
been open too long, so that no conversation waits forever, and otherwise the fullest. Long
conversations fill a row at once while short ones wait. So the first rows of a run, about as many as
are open, hold more long conversations than later rows.

Rows hold tokens and encoded media, no pixels, so many can be open. A checkpoint stores the numbers
of the conversations in them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import grain

from owl_jax.data.batch import SequenceShape
from owl_jax.data.conversations import Conversation
from owl_jax.data.drops import Dropped
from owl_jax.errors import UserError

# A row has been open too long when this many conversations per open row have arrived after it.
# Measured on the distribution of benchmarks/packing.py: a lower value wastes tokens, a higher one
# gains nothing.
_PATIENCE = 20


@dataclass(eq=False)
class Row:
    """The conversations of a packed sequence, in order, and the capacity they use."""

    opened: int  # number of conversations that had arrived when this row was opened
    conversations: list[Conversation] = field(default_factory=list)
    length: int = 0
    images: int = 0
    videos: int = 0

    def add(self, conversation: Conversation) -> None:
        self.conversations.append(conversation)
        self.length += conversation.length
        self.images += len(conversation.images)
        self.videos += len(conversation.videos)

    def has_room(self, conversation: Conversation, shape: SequenceShape) -> bool:
        return (
            self.length + conversation.length <= shape.length
            and self.images + len(conversation.images) <= shape.image_slots
            and self.videos + len(conversation.videos) <= shape.video_slots
        )


class Packer:
    """The open rows, oldest first, and the rule that fills them."""

    def __init__(self, shape: SequenceShape, open_rows: int):
        self._shape, self._open_rows = shape, open_rows
        self.rows: list[Row] = []
        self.count = 0  # conversations that have arrived

    def place(self, conversation: Conversation) -> Row | None:
        """Puts a conversation into a row; returns the row that was closed for it, if any."""
        self.count += 1
        fitting = [row for row in self.rows if row.has_room(conversation, self._shape)]
        if fitting:
            max(fitting, key=_length).add(conversation)
            return None
        closed = None
        if len(self.rows) >= self._open_rows:
            overdue = self.count - self.rows[0].opened > _PATIENCE * self._open_rows
            closed = self.rows[0] if overdue else max(self.rows, key=_length)
            self.rows.remove(closed)
        row = Row(self.count)
        row.add(conversation)
        self.rows.append(row)
        return closed


class PackRows(grain.IterDataset[Sequence[Conversation]]):
    """Packed sequences, each as the list of its conversations.

    Args:
      conversations: an iterable data set of conversations that fit in a sequence.
      lookup: conversations by number, to refill the open rows when a state is restored.
      shape: the capacity of a sequence.
      open_rows: maximum number of open rows; 0 turns packing off: one conversation per sequence.
    """

    def __init__(
        self,
        conversations: grain.IterDataset[Conversation],
        lookup: grain.MapDataset[Conversation | Dropped],
        shape: SequenceShape,
        open_rows: int,
    ):
        super().__init__(conversations)
        self._lookup, self._shape, self._open_rows = lookup, shape, open_rows

    def __iter__(self) -> _RowIterator:
        return _RowIterator(iter(self._parent), self._lookup, self._shape, self._open_rows)


class _RowIterator(grain.DatasetIterator[Sequence[Conversation]]):
    def __init__(
        self,
        parent: grain.DatasetIterator[Conversation],
        lookup: grain.MapDataset[Conversation | Dropped],
        shape: SequenceShape,
        open_rows: int,
    ):
        super().__init__(parent)
        self._lookup = lookup
        self._packer = Packer(shape, open_rows) if open_rows else None

    def __next__(self) -> Sequence[Conversation]:
        while True:
            conversation = next(self._parent)
            if self._packer is None:
                return [conversation]
            if closed := self._packer.place(conversation):
                return closed.conversations

    def get_state(self) -> dict[str, Any]:
        state: dict[str, Any] = {"parent": self._parent.get_state()}
        if self._packer:
            state["count"] = self._packer.count
            state["open"] = [
                {
                    "opened": row.opened,
                    "numbers": [item.number for item in row.conversations],
                    "lengths": [item.length for item in row.conversations],
                }
                for row in self._packer.rows
            ]
        return state

    def set_state(self, state: dict[str, Any]) -> None:
        self._parent.set_state(state["parent"])
        if self._packer:
            self._packer.count = state["count"]
            self._packer.rows = [self._reopened(row) for row in state["open"]]

    def _reopened(self, saved: dict[str, Any]) -> Row:
        row = Row(saved["opened"])
        for number, length in zip(saved["numbers"], saved["lengths"], strict=True):
            item = self._lookup[number]
            if isinstance(item, Dropped) or item.length != length:
                changed = item.message if isinstance(item, Dropped) else item.where
                raise UserError(
                    f"the data has changed since the checkpoint: {changed}; restore the old data, "
                    "or restart the data with --config.data.resume=False"
                )
            row.add(item)
        return row


def _length(row: Row) -> int:
    return row.length
