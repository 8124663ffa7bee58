"""A batch's rows as the conversations in them: what the model gets, read back for people and tests.

Letters: B rows, L positions, T frames, S picture side.

A target is the token that follows its position. So a conversation has one token more than
positions: the last is a target only.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np

from owl_jax.data.batch import Batch
from owl_jax.text.media_index import TEXT


@dataclass(frozen=True, eq=False)
class Words:
    """Tokens in a row that are all supervised, or all not."""

    ids: list[int]
    supervised: bool


@dataclass(frozen=True, eq=False)
class Medium:
    """A picture or video where its vectors stand.

    pixels: uint8[S, S, 3], or uint8[T, S, S, 3] of a video. slot: its slot, counted from 0 for
    pictures and videos apart. positions: how many of them it takes.
    """

    pixels: np.ndarray
    slot: int
    positions: int

    @property
    def is_video(self) -> bool:
        return self.pixels.ndim == 4


@dataclass(frozen=True, eq=False)
class Segment:
    """One conversation, in reading order. start, length: the positions of the row that it takes."""

    parts: list[Words | Medium]
    start: int
    length: int
    supervised: int

    @property
    def media(self) -> list[Medium]:
        return [part for part in self.parts if isinstance(part, Medium)]


@dataclass(frozen=True, eq=False)
class UnpackedRow:
    """A row of L positions and its slots: the conversations, in order, and how much they fill."""

    segments: list[Segment]
    length: int
    image_slots: int
    video_slots: int

    @property
    def fill(self) -> float:
        """Share of the positions that conversations take."""
        return sum(segment.length for segment in self.segments) / self.length

    @property
    def images(self) -> int:
        """Image slots in use."""
        return self._used(videos=False)

    @property
    def videos(self) -> int:
        """Video slots in use."""
        return self._used(videos=True)

    def _used(self, videos: bool) -> int:
        media = [medium for segment in self.segments for medium in segment.media]
        return len({medium.slot for medium in media if medium.is_video == videos})


def unpack(batch: Batch, media_length: int) -> list[UnpackedRow]:
    """The rows of a batch. media_length: positions per picture or video.

    Where a prediction is supervised, its target is shown, which is what the model learns;
    elsewhere, what the model reads.
    """
    arrays = {name: np.asarray(array) for name, array in vars(batch).items()}
    return [
        _unpack_row({name: array[row] for name, array in arrays.items()}, media_length)
        for row in range(len(arrays["input_ids"]))
    ]


def _unpack_row(row: dict[str, np.ndarray], media_length: int) -> UnpackedRow:
    numbers = row["segment_ids"]
    segments = []
    for number in range(1, numbers.max(initial=0) + 1):
        (places,) = np.nonzero(numbers == number)
        if len(places):
            parts = _parts(row, places, media_length)
            supervised = int((row["loss_mask"][places] > 0).sum())
            segments.append(Segment(parts, int(places[0]), len(places), supervised))
    return UnpackedRow(segments, len(numbers), len(row["images"]), len(row["videos"]))


def _parts(
    row: dict[str, np.ndarray], places: np.ndarray, media_length: int
) -> list[Words | Medium]:
    index, targets = row["media_index"][places], row["targets"][places]
    # One entry a token: what is read there, and what the prediction before it is taught, if it is.
    slots = np.append(np.where(index < 0, TEXT, index // media_length), TEXT)
    read = np.append(row["input_ids"][places], targets[-1])
    taught = np.append(False, row["loss_mask"][places] > 0)
    tokens: list[tuple[int, bool, int]] = []
    for slot, word, target, supervised in zip(
        slots.tolist(), read.tolist(), [0, *targets.tolist()], taught.tolist(), strict=True
    ):
        if supervised:
            tokens.append((TEXT, True, target))
        if slot != TEXT or not supervised:
            tokens.append((slot, False, word))
    num_images = len(row["images"])
    parts: list[Words | Medium] = []
    for (slot, supervised), group in itertools.groupby(tokens, key=lambda token: token[:2]):
        ids = [word for _, _, word in group]
        if slot == TEXT:
            parts.append(Words(ids, supervised))
        elif slot < num_images:
            parts.append(Medium(row["images"][slot], slot, len(ids)))
        else:
            parts.append(Medium(row["videos"][slot - num_images], slot - num_images, len(ids)))
    return parts
