"""Batches of packed sequences, all of one fixed shape, so the training step compiles once.

Letters: B sequences, L sequence length, N image slots, M video slots, T frames, S image side.

An example is one conversation with its pixels. A packed sequence holds several examples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from flax import struct

from owl_jax.text.media_index import MediaLengths, index_media


@dataclass(frozen=True)
class Example:
    """One conversation as arrays.

    input_ids: int32[n], media tokens negative (text/conversation.py).
    loss_mask: bool[n], True on answer tokens and their end-of-sequence tokens.
    images: uint8[k, S, S, 3]. videos: uint8[m, T, S, S, 3]. Both in the order of their
      media tokens in input_ids.
    """

    input_ids: np.ndarray
    loss_mask: np.ndarray
    images: np.ndarray
    videos: np.ndarray


@dataclass(frozen=True)
class SequenceShape:
    """Capacity of one packed sequence.

    media: the numbers of tokens of an image and of a video with `frames` frames.
    """

    length: int
    media: MediaLengths
    image_size: int
    image_slots: int = 0
    video_slots: int = 0
    frames: int = 0

    @property
    def media_tokens(self) -> int:
        """The number of tokens of all media slots together."""
        return self.image_slots * self.media.image + self.video_slots * self.media.video


Array = Any  # NumPy on the host, jax.Array in the step


@struct.dataclass
class Batch:
    """Input of a training step.

    input_ids:   int32[B, L], 0 at media tokens.
    targets:     int32[B, L], the next token; undefined where loss_mask is 0.
    loss_mask:   float32[B, L], 1 where the prediction is supervised.
    positions:   int32[B, L], restart at 0 in each conversation; 0 on padding.
    segment_ids: int32[B, L], 1, 2, ... for the conversations of a sequence; 0 on padding.
    media_index: int32[B, L], see models/splice.py.
    images:      uint8[B, N, S, S, 3].
    videos:      uint8[B, M, T, S, S, 3].
    """

    input_ids: Array
    targets: Array
    loss_mask: Array
    positions: Array
    segment_ids: Array
    media_index: Array
    images: Array
    videos: Array


def collate(rows: Sequence[Sequence[Example]], shape: SequenceShape) -> Batch:
    """Concatenates the conversations of each row into a sequence padded on the right.

    Each conversation is a segment with its own positions. Its last token is only a target, so no
    conversation predicts the first token of the next. An empty row is all padding.
    Raises ValueError if the conversations of a row do not fit; packing prevents that.
    """
    B, L, S = len(rows), shape.length, shape.image_size
    ids, targets = np.zeros((B, L), np.int32), np.zeros((B, L), np.int32)
    loss_mask = np.zeros((B, L), np.float32)
    positions, segment_ids = np.zeros((B, L), np.int32), np.zeros((B, L), np.int32)
    images = np.zeros((B, shape.image_slots, S, S, 3), np.uint8)
    videos = np.zeros((B, shape.video_slots, shape.frames, S, S, 3), np.uint8)
    for row, examples in enumerate(rows):
        start, image, video = 0, 0, 0
        for segment, example in enumerate(examples, start=1):
            n, k, m = len(example.input_ids) - 1, len(example.images), len(example.videos)
            if start + n > L:
                raise ValueError(f"{start + n} tokens do not fit in a sequence of {L}")
            span = slice(start, start + n)
            ids[row, span], targets[row, span] = example.input_ids[:-1], example.input_ids[1:]
            loss_mask[row, span] = example.loss_mask[1:]
            positions[row, span], segment_ids[row, span] = np.arange(n), segment
            if k:
                images[row, image : image + k] = example.images
            if m:
                videos[row, video : video + m] = example.videos
            start, image, video = start + n, image + k, video + m
    return Batch(
        input_ids=np.maximum(ids, 0),
        targets=np.maximum(targets, 0),
        loss_mask=loss_mask,
        positions=positions,
        segment_ids=segment_ids,
        media_index=index_media(ids, shape.media, shape.image_slots, shape.video_slots),
        images=images,
        videos=videos,
    )
