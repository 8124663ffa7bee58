"""Conversations of a batch with the loss of each token, as JSON for the run's report.

An example is {"loss": mean, "tokens": number of supervised tokens, "parts": [...]}. Parts are in
reading order; a loss that is not finite is null. A part is one of

    {"text": "..."}                     not supervised
    {"token": "...", "loss": nats}      a supervised token
    {"picture": URL}, {"video": [URL]}  thumbnails as data: URLs; one per frame

Letters: B sequences, L tokens.
"""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from PIL import Image

from owl_jax.data.batch import Batch, SequenceShape
from owl_jax.text.media_index import TEXT, media_slots
from owl_jax.text.tokenizer import StreamDecoder, Tokenizer

_PICTURE, _FRAME = 144, 96  # pixels of the longer side
_QUALITY = 80
_NO_TEXT = "◌"  # shown for a token that is only part of a character


def examples_of(
    batch: Batch, losses: jax.Array, shape: SequenceShape, tokenizer: Tokenizer, most: int
) -> list[dict[str, Any]]:
    """The first conversations with supervised tokens.

    Args:
      batch, losses: arrays on devices; losses is float32[B, L]. Only local sequences are read.
      most: the maximum number of conversations.
    """
    rows: dict[str, dict[int, np.ndarray]] = {
        name: _own_rows(array) for name, array in {**vars(batch), "losses": losses}.items()
    }
    found: list[dict[str, Any]] = []
    for index in sorted(rows["losses"]):
        row = {name: arrays[index] for name, arrays in rows.items()}
        for segment in range(1, int(row["segment_ids"].max()) + 1):
            if len(found) == most:
                return found
            (tokens,) = np.nonzero(row["segment_ids"] == segment)
            is_supervised = row["loss_mask"][tokens] > 0
            if is_supervised.any():
                found.append(
                    {
                        "loss": finite(row["losses"][tokens][is_supervised].mean()),
                        "tokens": int(is_supervised.sum()),
                        "parts": list(_parts(row, tokens, shape, tokenizer)),
                    }
                )
    return found


def finite(number: Any) -> float | None:
    """A number for JSON, rounded to 4 decimals; None if it is not finite."""
    return round(float(number), 4) if math.isfinite(number) else None


def _own_rows(array: jax.Array) -> dict[int, np.ndarray]:
    """The sequences of a batch's array on this process's devices, by index."""
    rows: dict[int, np.ndarray] = {}
    for shard in array.addressable_shards:
        start = shard.index[0].start or 0
        rows |= dict(enumerate(np.asarray(shard.data), start))
    return rows


def _parts(
    row: dict[str, np.ndarray], tokens: np.ndarray, shape: SequenceShape, tokenizer: Tokenizer
) -> Iterator[dict[str, Any]]:
    media = row["media_index"][tokens]
    # One entry per token. The last token is only a target; the first is only an input.
    slots = [*media_slots(media, shape.media, shape.image_slots).tolist(), TEXT]
    ids = [*row["input_ids"][tokens].tolist(), int(row["targets"][tokens[-1]])]
    supervised = row["loss_mask"][tokens] > 0
    losses = [
        float(loss) if is_supervised else None
        for loss, is_supervised in zip(row["losses"][tokens], supervised, strict=True)
    ]
    decoder = StreamDecoder(tokenizer)
    names = {tokenizer.pad_id: "<pad>", **tokenizer.special_tokens}
    text, before = "", -1
    for slot, token, loss in zip(slots, ids, [None, *losses], strict=True):
        if slot < 0:
            piece = names.get(token) or decoder.push(token)
            if loss is not None:
                if text:
                    yield {"text": text}
                    text = ""
                yield {"token": piece or _NO_TEXT, "loss": finite(loss)}
            else:
                text += piece
        elif slot != before:
            if text:
                yield {"text": text}
                text = ""
            yield _medium(row, slot)
        before = slot
    if text := text + decoder.finish():
        yield {"text": text}


def _medium(row: dict[str, np.ndarray], slot: int) -> dict[str, Any]:
    images = row["images"]
    if slot < len(images):
        return {"picture": _thumbnail(images[slot], _PICTURE)}
    return {"video": [_thumbnail(frame, _FRAME) for frame in row["videos"][slot - len(images)]]}


def _thumbnail(pixels: np.ndarray, side: int) -> str:
    file = io.BytesIO()
    image = Image.fromarray(pixels)
    image.thumbnail((side, side))
    image.save(file, "JPEG", quality=_QUALITY, subsampling=0)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode('ascii')}"
