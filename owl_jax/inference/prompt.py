"""Checks a caller's ids, mask and media and converts them to the arrays that prefill takes.

Letters: B sequences, L tokens, N images, M videos, T frames, S image side.
"""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
from flax import struct

from owl_jax.errors import UserError, one_line, shown
from owl_jax.models.config import OwlConfig
from owl_jax.text.media_index import IMAGE_ID, VIDEO_ID, index_media

# Lengths are rounded up to a multiple of this, so the next turn of a conversation usually reuses a
# compiled program.
BUCKET = 64


@struct.dataclass
class Prompt:
    """A batch of prompts, padded on the right. L is a multiple of BUCKET.

    input_ids:   int32[B, L]; 0 on padding.
    media_index: int32[B, L] (models/splice.py).
    lengths:     int32[B], tokens of each sequence.
    images:      [B, N, S, S, 3] or None; uint8, or float32 normalised. Unused slots are zeros.
    videos:      [B, M, T, S, S, 3] or None.
    media:       [B, W, D], the vectors of the media if they have been encoded before; or None.
    """

    input_ids: np.ndarray
    media_index: np.ndarray
    lengths: np.ndarray
    images: np.ndarray | None = None
    videos: np.ndarray | None = None
    media: jax.Array | None = None


def round_up(length: int) -> int:
    """The next multiple of BUCKET."""
    return -(-length // BUCKET) * BUCKET


def prompt_arrays(
    config: OwlConfig,
    input_ids: Any,
    attention_mask: Any = None,
    images: Any = None,
    videos: Any = None,
) -> Prompt:
    """Checks a batch and arranges its media by sequence.

    Args:
      input_ids: int[B, L]; -1 for an image, -2 for a video, `Owl.num_tokens` of them for each.
      attention_mask: [B, L], 1 on tokens and 0 on padding, on the left or right of a sequence.
        None: no padding.
      images: [N, S, S, 3], in reading order over the batch; uint8, or float normalised.
      videos: [M, T, S, S, 3], likewise.

    Raises UserError for invalid shapes or ids, a sequence without tokens or with padding between
    them, and media that do not match their marks.
    """
    ids, mask = _checked_ids(config, input_ids, attention_mask)
    images, videos = _array_of(images, "images"), _array_of(videos, "videos")
    lengths = config.media_lengths(videos.shape[1] if videos.ndim == 5 else 1)
    size = config.image_size
    image_slots = video_slots = None
    if config.text_only:
        _refuse_media(ids, images, videos)
    else:
        image_slots = _slots(ids, images, size, IMAGE_ID, lengths.image, "image", "[N, S, S, 3]")
        video_slots = _slots(ids, videos, size, VIDEO_ID, lengths.video, "video", "[M, T, S, S, 3]")

    # The padding's ids are 0, so nothing but padding moves from the left to the right.
    shifts = (np.arange(ids.shape[1]) + mask.argmax(axis=1)[:, None]) % ids.shape[1]
    ids = np.take_along_axis(ids, shifts, axis=1)
    ids = np.pad(ids, ((0, 0), (0, round_up(ids.shape[1]) - ids.shape[1])))
    return Prompt(
        input_ids=np.maximum(ids, 0),
        media_index=index_media(
            ids,
            lengths,
            0 if image_slots is None else image_slots.shape[1],
            0 if video_slots is None else video_slots.shape[1],
        ),
        lengths=mask.sum(axis=1).astype(np.int32),
        images=image_slots,
        videos=video_slots,
    )


def _checked_ids(
    config: OwlConfig, input_ids: Any, attention_mask: Any
) -> tuple[np.ndarray, np.ndarray]:
    """The ids, int32[B, L] with 0 on padding, and the mask, bool[B, L]."""
    ids = _array(input_ids, "input_ids")
    if ids.ndim != 2 or not np.issubdtype(ids.dtype, np.integer):
        found = f"{ids.dtype}{list(ids.shape)}"
        hint = " (one prompt is a batch of one: [ids])" if ids.ndim == 1 else ""
        raise UserError(f"input_ids is {found}; expected integers [batch, length]{hint}")
    mask = np.ones(ids.shape, bool)
    if attention_mask is not None:
        given = _array(attention_mask, "attention_mask")
        if not (given.dtype == bool or jax.dtypes.issubdtype(given.dtype, np.number)):
            raise UserError(f"attention_mask holds {given.dtype}; expected numbers, 0 on padding")
        mask = given == 1
        if not (mask | (given == 0)).all():  # as in an additive mask, which is 0 on tokens
            other = given[~mask & (given != 0)].flat[0]
            raise UserError(f"attention_mask holds {other}; expected 1 on tokens and 0 on padding")
    if mask.shape != ids.shape:
        raise UserError(f"attention_mask is {list(mask.shape)}; input_ids is {list(ids.shape)}")
    if not mask.any(axis=1).all() or not len(ids):
        raise UserError("a sequence of input_ids has no token; expected at least one")
    changes = np.diff(mask, axis=1, prepend=False, append=False).sum(axis=1)
    if (changes > 2).any():
        raise UserError(
            f"attention_mask: sequence {int(np.argmax(changes > 2))} has padding between its "
            "tokens; pad on the left or the right"
        )
    ids = np.where(mask, ids, 0)
    unknown = (ids < VIDEO_ID) | (ids >= config.llm.vocab_size)
    if unknown.any():
        raise UserError(
            f"input_ids holds {ids[unknown][0]}; expected ids below the model's "
            f"{config.llm.vocab_size}, {IMAGE_ID} for images and {VIDEO_ID} for videos"
        )
    return ids.astype(np.int32), mask


def _refuse_media(ids: np.ndarray, images: np.ndarray, videos: np.ndarray) -> None:
    """Raises UserError for any media of a model that takes text only."""
    for media_id, pixels, noun in ((IMAGE_ID, images, "image"), (VIDEO_ID, videos, "video")):
        marks = int((ids == media_id).sum())
        if marks or pixels.size:
            found = f"input_ids has {marks} tokens of id {media_id}" if marks else f"{noun}s given"
            raise UserError(
                f"{found}, but this language model has no vision encoder: it takes no {noun}s"
            )


def _slots(
    ids: np.ndarray, pixels: np.ndarray, S: int, media_id: int, length: int, noun: str, shape: str
) -> np.ndarray | None:
    """[N, ...] in reading order -> [B, slots, ...] by sequence; None if there are no media.

    length: tokens of one medium. shape: the expected shape, a letter or number for each axis.
    """
    counts = (ids == media_id).sum(axis=1)
    broken = counts % length != 0
    if broken.any():
        sequence = int(np.argmax(broken))
        raise UserError(
            f"sequence {sequence} of input_ids has {counts[sequence]} tokens of id {media_id} "
            f"({noun}); expected {length} for each {noun}"
        )
    marks = counts // length
    has_shape = pixels.ndim == len(shape.split()) and pixels.shape[-3:] == (S, S, 3)
    if pixels.ndim == 0 or (not has_shape and pixels.size and len(pixels) != marks.sum()):
        raise UserError(
            f"{noun}s are {pixels.dtype}{list(pixels.shape)}; expected {shape} with S = {S}, and "
            f"{marks.sum()} of them for the marks in input_ids"
        )
    if len(pixels) != marks.sum():
        raise UserError(
            f"{len(pixels)} {noun}(s) given, but input_ids has marks for {marks.sum()}; expected "
            f"one {noun} for each mark, in reading order over the batch"
        )
    if not len(pixels):
        return None
    if not has_shape or not pixels.size:
        raise UserError(f"{noun}s are {list(pixels.shape)}; expected {shape} with S = {S}")
    if pixels.dtype != np.uint8 and not jax.dtypes.issubdtype(pixels.dtype, np.floating):
        raise UserError(f"{noun}s are {pixels.dtype}; expected uint8, or float normalised")
    if pixels.dtype != np.uint8:
        pixels = pixels.astype(np.float32)
    slots = np.zeros((len(ids), marks.max(), *pixels.shape[1:]), pixels.dtype)
    slots[np.arange(marks.max()) < marks[:, None]] = pixels
    return slots


def _array_of(media: Any, name: str) -> np.ndarray:
    """The media's pixels; empty if there are none."""
    return _array([] if media is None else media, name)


def _array(value: Any, name: str) -> np.ndarray:
    """`value` as an array. Raises UserError for ragged lists and anything else that is not one."""
    try:
        array = np.asarray(value)
    # PyTorch refuses to convert tensors that need a gradient or are on a GPU.
    except (ValueError, TypeError, RuntimeError, OverflowError) as error:
        raise UserError(f"{name} is not an array: {one_line(error)}") from error
    if array.dtype == object:
        raise UserError(f"{name} is {shown(value)}; expected an array of numbers")
    return array
