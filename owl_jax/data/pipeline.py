"""From records to an endless, resumable stream of batches (Grain).

record -> Example -> rows of a Batch. A record that cannot become an example is dropped, counted
and reported with its place; nothing stands in for it.
"""

from __future__ import annotations

import math
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import partial
from typing import Any

import grain
import numpy as np
from absl import logging

from owl_jax.data.batch import Batch, Example, RowShape, collate
from owl_jax.data.sources import Record
from owl_jax.errors import UserError
from owl_jax.processing.conversation import check_media, tokenize_conversation
from owl_jax.processing.image import load_image, preprocess_image
from owl_jax.processing.tokenizer import Tokenizer
from owl_jax.processing.video import load_video

# The share of dropped records is judged once this many have been seen.
_RECORDS_BEFORE_JUDGING = 100


@dataclass(frozen=True)
class Dropped:
    """A record that gave no example. reason: a few words to count by; detail: for the person."""

    reason: str
    detail: str


@dataclass(frozen=True)
class Prepare:
    """Turns a record into an Example, or says why not."""

    tokenizer: Tokenizer
    shape: RowShape

    def __call__(self, record: Record) -> Example | Dropped:
        shape, where = self.shape, record["where"]
        text, pictures, clips = record["text"], record["images"], record["videos"]
        try:
            check_media(text, len(pictures), len(clips), where)
        except UserError as error:
            return Dropped("media marks", str(error))
        tokens = tokenize_conversation(text, self.tokenizer, shape.media_length - 1, shape.length)
        if not tokens.loss_mask[1:].any():
            detail = f"{where}: no answer within {shape.length} tokens"
            return Dropped("no supervised token", detail)
        if tokens.num_images > shape.image_slots or tokens.num_videos > shape.video_slots:
            return Dropped(
                "too many media",
                f"{where}: {tokens.num_images} images and {tokens.num_videos} videos, room for "
                f"{shape.image_slots} and {shape.video_slots} (data.image_slots, data.video_slots)",
            )
        size = shape.image_size
        try:
            images = [
                preprocess_image(load_image(picture, where), size)
                for picture in pictures[: tokens.num_images]
            ]
            videos = [
                load_video(clip, shape.frames, size, where) for clip in clips[: tokens.num_videos]
            ]
        except UserError as error:
            return Dropped("unreadable media", str(error))
        return Example(
            tokens.input_ids,
            tokens.loss_mask,
            np.asarray(images, np.uint8).reshape(len(images), size, size, 3),
            np.asarray(videos, np.uint8).reshape(len(videos), shape.frames, size, size, 3),
        )


@dataclass
class DropLog:
    """Counts dropped records by reason; stops the run when their share passes `limit`.

    A run that has not seen a single usable record stops whatever the limit: it would never end.
    """

    limit: float
    seen: int = 0
    reasons: Counter[str] = field(default_factory=Counter)

    def keep(self, item: Example | Dropped) -> bool:
        """True for an example. Raises UserError where there are too many others."""
        self.seen += 1
        if isinstance(item, Example):
            return True
        self.reasons[item.reason] += 1
        logging.warning("dropped (%s): %s", item.reason, item.detail)
        dropped = self.reasons.total()
        too_many = dropped > self.limit * self.seen or dropped == self.seen
        if self.seen >= _RECORDS_BEFORE_JUDGING and too_many:
            counts = ", ".join(f"{reason}: {n}" for reason, n in self.reasons.most_common())
            raise UserError(
                f"{dropped} of {self.seen} records were dropped ({counts}), allowed is a share of "
                f"data.max_dropped={self.limit}; mend the data or allow more. The last one: "
                f"{item.detail}"
            )
        return False


@dataclass(frozen=True)
class WeightedSource:
    """A random-access source of records and its share of the mixture."""

    source: Any
    weight: float


class _Shares(grain.transforms.DatasetSelectionMap):
    """Which source each record of the mixture comes from, and which of its records that is.

    At any point the first source is within one record of its share, the second within one of its
    share of what the first leaves, and so on. Weights count as they are written: 0.3 is three
    tenths. (Grain's own `mix` rounds them to hundredths of the smallest.)
    """

    def __init__(self, weights: Sequence[float]):
        ratios = [Fraction(str(weight)) for weight in weights]
        scale = math.lcm(*(ratio.denominator for ratio in ratios))
        self._weights = [int(ratio * scale) for ratio in ratios]

    def __len__(self) -> int:
        return sys.maxsize

    def __getitem__(self, index: int) -> tuple[int, int]:
        total = sum(self._weights)
        for source, weight in enumerate(self._weights):
            own = -(-index * weight // total)  # of the first `index` records, rounded up
            if -(-(index + 1) * weight // total) > own:
                return source, own
            index, total = index - own, total - weight
        raise AssertionError("the last source takes what the others leave")


class _Guarded:
    """A source whose unreadable records become Dropped instead of exceptions."""

    def __init__(self, source: Any):
        self._source = source

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> Record | Dropped:
        try:
            return self._source[index]
        except UserError as error:
            return Dropped("unreadable record", str(error))


def make_batches(
    sources: Sequence[WeightedSource],
    prepare: Prepare,
    batch_size: int,
    seed: int,
    drop_log: DropLog,
    num_threads: int = 2,
    process: int = 0,
    num_processes: int = 1,
) -> Iterator[Batch]:
    """An endless Grain iterator of batches; its state goes into checkpoints.

    Each source is shuffled anew in every epoch; shares are exact. Of the mixture, process p of n
    reads every n-th record and makes batches of `batch_size` rows.

    Raises UserError for no source or a weight of 0 or less; the iterator raises it where too many
    records are dropped (DropLog).
    """
    if not sources:
        raise UserError("no data: set config.data.mixture or config.data.synthetic")
    weights = [item.weight for item in sources]
    if not all(0 < weight < float("inf") for weight in weights):
        raise UserError(f"config.data.mixture has the weights {weights}; expected numbers above 0")
    datasets = [
        grain.MapDataset.source(_Guarded(item.source)).seed(seed + i).shuffle().repeat()
        for i, item in enumerate(sources)
    ]
    mixed = grain.MapDataset.select_from_datasets(datasets, _Shares(weights))
    mixed = mixed[process::num_processes]
    mixed = mixed.map(lambda item: item if isinstance(item, Dropped) else prepare(item))
    stream = mixed.to_iter_dataset(
        grain.ReadOptions(num_threads=num_threads, prefetch_buffer_size=4 * batch_size)
    )
    stream = stream.filter(drop_log.keep)
    collate_rows = partial(collate, shape=prepare.shape)
    return iter(stream.batch(batch_size, drop_remainder=True, batch_fn=collate_rows))
