"""Batches: rows of fixed shape, made of examples.

Letters: B rows, L positions, N image slots, M video slots, T frames, S picture side.

An example is what processing makes of one conversation; a row holds it with its targets shifted by
one. Shapes never change during a run, so the step is compiled once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from flax import struct

from owl_jax.processing.rows import index_media


@dataclass(frozen=True)
class Example:
    """One conversation as arrays.

    input_ids: int32[n], media positions negative (processing/conversation.py).
    loss_mask: bool[n], True on answer tokens and their end marks.
    images: uint8[k, S, S, 3]. videos: uint8[m, T, S, S, 3]. Both in reading order.
    """

    input_ids: np.ndarray
    loss_mask: np.ndarray
    images: np.ndarray
    videos: np.ndarray


@dataclass(frozen=True)
class RowShape:
    """What a row has room for. media_length: positions per picture or video (queries + 1)."""

    length: int
    media_length: int
    image_size: int
    image_slots: int = 0
    video_slots: int = 0
    frames: int = 0


Array = Any  # NumPy on the host, jax.Array in the step


@struct.dataclass
class Batch:
    """What a training step takes.

    input_ids:   int32[B, L]; media positions hold 0.
    targets:     int32[B, L], the token that follows; anything where loss_mask is 0.
    loss_mask:   float32[B, L], 1 where the prediction is supervised.
    positions:   int32[B, L], counted from 0 in each conversation.
    segment_ids: int32[B, L], 0 on padding, 1, 2, ... for the conversations of a row.
    media_index: int32[B, L], models/media.py.
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


def collate(examples: Sequence[Example], shape: RowShape) -> Batch:
    """One example a row, padded on the right.

    Raises ValueError if an example does not fit its row: the pipeline drops those before.
    """
    B, L, S = len(examples), shape.length, shape.image_size
    ids = np.zeros((B, L + 1), np.int32)
    mask = np.zeros((B, L + 1), np.float32)
    segment_ids = np.zeros((B, L), np.int32)
    images = np.zeros((B, shape.image_slots, S, S, 3), np.uint8)
    videos = np.zeros((B, shape.video_slots, shape.frames, S, S, 3), np.uint8)
    for row, example in enumerate(examples):
        n = len(example.input_ids)
        if n > L + 1:
            raise ValueError(f"an example of {n} tokens does not fit a row of {L + 1}")
        ids[row, :n] = example.input_ids
        mask[row, :n] = example.loss_mask
        segment_ids[row, : n - 1] = 1
        images[row, : len(example.images)] = example.images
        if len(example.videos):
            videos[row, : len(example.videos)] = example.videos
    inputs = ids[:, :-1]
    return Batch(
        input_ids=np.maximum(inputs, 0),
        targets=np.maximum(ids[:, 1:], 0),
        loss_mask=mask[:, 1:],
        positions=np.broadcast_to(np.arange(L, dtype=np.int32), (B, L)).copy(),
        segment_ids=segment_ids,
        media_index=index_media(inputs, shape.media_length, shape.image_slots, shape.video_slots),
        images=images,
        videos=videos,
    )
