"""Reconstructs the conversations in a batch's packed sequences, for people and tests.

Letters: T frames, S image side.

The target at an index is the next token. So a conversation has one token more than it takes in the
sequence: its last token is only a target.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np

from owl_jax.data.batch import Batch
from owl_jax.text.media_index import TEXT, MediaLengths, media_slots


@dataclass(frozen=True, eq=False)
class Words:
    """Consecutive text tokens that are either all supervised or all unsupervised."""

    ids: list[int]
    supervised: bool


@dataclass(frozen=True, eq=False)
class Medium:
    """A picture or video in the sequence.

    pixels: uint8[S, S, 3], or uint8[T, S, S, 3] of a video. slot: its image slot or video slot,
    from 0. tokens: the number of tokens that it takes.
    """

    pixels: np.ndarray
    slot: int
    tokens: int

    @property
    def is_video(self) -> bool:
        return self.pixels.ndim == 4


@dataclass(frozen=True, eq=False)
class Segment:
    """One conversation. start, length: the tokens of the sequence that it takes."""

    parts: list[Words | Medium]
    start: int
    length: int
    supervised: int

    @property
    def media(self) -> list[Medium]:
        return [part for part in self.parts if isinstance(part, Medium)]


@dataclass(frozen=True, eq=False)
class UnpackedSequence:
    """The conversations of a packed sequence, in order. length: the sequence length."""

    segments: list[Segment]
    length: int
    image_slots: int
    video_slots: int

    @property
    def fill(self) -> float:
        """Share of tokens that are not padding."""
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


def unpack(batch: Batch, lengths: MediaLengths) -> list[UnpackedSequence]:
    """The packed sequences of a batch.

    Supervised tokens are read from the targets, which the model learns; others from the inputs.
    """
    arrays = {name: np.asarray(array) for name, array in vars(batch).items()}
    return [
        _unpack_sequence({name: array[i] for name, array in arrays.items()}, lengths)
        for i in range(len(arrays["input_ids"]))
    ]


def _unpack_sequence(arrays: dict[str, np.ndarray], lengths: MediaLengths) -> UnpackedSequence:
    segment_ids = arrays["segment_ids"]
    segments = []
    for segment in range(1, segment_ids.max(initial=0) + 1):
        (indices,) = np.nonzero(segment_ids == segment)
        if len(indices):
            parts = _parts(arrays, indices, lengths)
            supervised = int((arrays["loss_mask"][indices] > 0).sum())
            segments.append(Segment(parts, int(indices[0]), len(indices), supervised))
    return UnpackedSequence(
        segments, len(segment_ids), len(arrays["images"]), len(arrays["videos"])
    )


def _parts(
    arrays: dict[str, np.ndarray], indices: np.ndarray, lengths: MediaLengths
) -> list[Words | Medium]:
    media_index, targets = arrays["media_index"][indices], arrays["targets"][indices]
    # One entry per token: its slot, the token as an input, and as a target with its supervision.
    slots = np.append(media_slots(media_index, lengths, len(arrays["images"])), TEXT)
    inputs = np.append(arrays["input_ids"][indices], targets[-1])
    is_supervised = np.append(False, arrays["loss_mask"][indices] > 0)
    tokens: list[tuple[int, bool, int]] = []
    for slot, word, target, supervised in zip(
        slots.tolist(),
        inputs.tolist(),
        [0, *targets.tolist()],
        is_supervised.tolist(),
        strict=True,
    ):
        if supervised:
            tokens.append((TEXT, True, target))
        if slot != TEXT or not supervised:
            tokens.append((slot, False, word))
    num_images = len(arrays["images"])
    parts: list[Words | Medium] = []
    for (slot, supervised), group in itertools.groupby(tokens, key=lambda token: token[:2]):
        ids = [word for _, _, word in group]
        if slot == TEXT:
            parts.append(Words(ids, supervised))
        elif slot < num_images:
            parts.append(Medium(arrays["images"][slot], slot, len(ids)))
        else:
            parts.append(Medium(arrays["videos"][slot - num_images], slot - num_images, len(ids)))
    return parts
