"""Turns the records of sources into an endless, resumable stream of batches (Grain).

    mixture -> conversations -> packed sequences -> batches -> pixels -> Batch

Everything up to `batches` decides the order and decodes no pixels. Each process mixes its own
shard of the data (data/mixture.py).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import BrokenExecutor, Future
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Any, TypeAlias

import grain

from owl_jax.data.batch import Batch, Example, SequenceShape, collate
from owl_jax.data.conversations import Conversation, Tokenize
from owl_jax.data.decoding import Decoding, Media, Pixels, decode, make_executor
from owl_jax.data.drops import DropLog, Dropped
from owl_jax.data.mixture import WeightedSource, mix
from owl_jax.data.packing import PackRows
from owl_jax.errors import UserError
from owl_jax.text.formats import OWL
from owl_jax.text.formats.format import ConversationFormat
from owl_jax.text.tokenizer import Tokenizer

BatchIterator: TypeAlias = grain.DatasetIterator[Batch]
_Rows: TypeAlias = Sequence[Sequence[Conversation]]

# Maximum number of batches to decode ahead, and of bytes that their pixels may take.
_MOST_AHEAD, _BYTES_AHEAD = 2, 2**30
_READY = 1  # finished batches to buffer
_MOST_RECORDS_AHEAD = 512


@dataclass(frozen=True)
class Reading:
    """How this process reads the stream.

    threads: for reading records and for decoding. workers: processes that decode instead of the
    threads. Neither changes the stream. shard_index, num_shards: which shard this process reads.
    """

    threads: int = 2
    workers: int = 0
    shard_index: int = 0
    num_shards: int = 1


def tokenized(
    sources: Sequence[WeightedSource],
    tokenizer: Tokenizer,
    shape: SequenceShape,
    seed: int,
    shard_index: int = 0,
    num_shards: int = 1,
    most_characters: int | None = None,
    format: ConversationFormat = OWL,
) -> grain.MapDataset[Conversation | Dropped]:
    """The endless mixture, tokenised, with random access. Arguments as in `mix` and `Tokenize`.

    Raises UserError as `mix` does.
    """
    tokenize = Tokenize(tokenizer, shape, most_characters, format)
    return mix(sources, seed, shard_index, num_shards).map_with_index(tokenize)


def make_batches(
    sources: Sequence[WeightedSource],
    tokenizer: Tokenizer,
    shape: SequenceShape,
    decoding: Decoding,
    batch_size: int,
    seed: int,
    drops: DropLog,
    open_rows: int = 64,
    reading: Reading = Reading(),
    made_with: Mapping[str, Any] = MappingProxyType({}),
    format: ConversationFormat = OWL,
) -> BatchIterator:
    """An endless iterator of Batches of `batch_size` sequences; its state goes into checkpoints.

    A record that cannot be used is dropped, counted and listed (data/drops.py), not replaced. A
    conversation whose media cannot be decoded leaves its sequence shorter.

    Args:
      open_rows: sequences that packing fills in parallel (data/packing.py); 0 turns packing off.
      made_with: the settings that determine the stream, as JSON values by name. `set_state` refuses
        a state saved with other settings.
      format: the conversation format of the model.

    Raises UserError if there is no source or a weight is invalid; the iterator raises it if too
    many records are dropped.
    """
    shard = reading.shard_index, reading.num_shards
    conversations = tokenized(sources, tokenizer, shape, seed, *shard, format=format)
    ahead = min(4 * batch_size, _MOST_RECORDS_AHEAD)
    stream = conversations.to_iter_dataset(
        grain.ReadOptions(num_threads=reading.threads, prefetch_buffer_size=ahead)
    )
    rows = PackRows(stream.filter(partial(_keep, drops)), conversations, shape, open_rows)
    finished = _FinishBatches(
        rows.batch(batch_size, drop_remainder=True, batch_fn=list),
        _Finishing(shape, decoding, batch_size, drops, reading, made_with),
    )
    ready = grain.experimental.ThreadPrefetchIterDataset(finished, prefetch_buffer_size=_READY)
    return iter(ready)


def _keep(drops: DropLog, item: Conversation | Dropped) -> bool:
    if not drops.keep(item) or isinstance(item, Dropped):
        return False
    drops.note(item.where, not (item.images or item.videos), item.unread)
    return True


@dataclass(frozen=True)
class _Finishing:
    """Settings of `_FinishIterator`."""

    shape: SequenceShape
    decoding: Decoding
    batch_size: int
    drops: DropLog
    reading: Reading
    made_with: Mapping[str, Any]

    @property
    def batches_ahead(self) -> int:
        shape = self.shape
        images = shape.image_slots + shape.video_slots * shape.frames
        pixels = self.batch_size * images * shape.image_size**2 * 3
        return min(_MOST_AHEAD, _BYTES_AHEAD // max(pixels, 1))


class _FinishBatches(grain.IterDataset[Batch]):
    """Decodes the media of packed sequences and collates them into a Batch."""

    def __init__(self, batches: grain.IterDataset[_Rows], settings: _Finishing):
        super().__init__(batches)
        self._settings = settings

    def __iter__(self) -> _FinishIterator:
        return _FinishIterator(iter(self._parent), self._settings)


class _FinishIterator(grain.DatasetIterator[Batch]):
    def __init__(self, parent: grain.DatasetIterator[_Rows], settings: _Finishing):
        super().__init__(parent)
        self._settings = settings
        self._executor = make_executor(settings.reading.threads, settings.reading.workers)
        self._state = parent.get_state()
        # Batches that are being decoded, each with the state of the parent after it.
        self._ahead: deque[tuple[_Rows, list[list[Future]], dict[str, Any]]] = deque()

    def __next__(self) -> Batch:
        while len(self._ahead) <= self._settings.batches_ahead:
            rows = next(self._parent)
            pixels = [[self._start(item) for item in row] for row in rows]
            self._ahead.append((rows, pixels, self._parent.get_state()))
        rows, pixels, state = self._ahead.popleft()
        examples = [
            [
                example
                for conversation, future in zip(row, futures, strict=True)
                if (example := self._finish(conversation, future))
            ]
            for row, futures in zip(rows, pixels, strict=True)
        ]
        self._state = state
        return collate(examples, self._settings.shape)

    def _start(self, item: Conversation) -> Future[Pixels | Dropped]:
        media = Media(item.number, item.images, item.videos, item.keep_places, item.where)
        if item.images or item.videos:
            try:
                return self._executor.submit(decode, self._settings.decoding, media)
            except BrokenExecutor:
                raise self._killed() from None
        done: Future[Pixels | Dropped] = Future()
        done.set_result(decode(self._settings.decoding, media))
        return done

    def _finish(self, item: Conversation, future: Future[Pixels | Dropped]) -> Example | None:
        try:
            pixels = future.result()
        except BrokenExecutor:
            raise self._killed() from None
        if isinstance(pixels, Dropped):
            self._settings.drops.drop(pixels)
            return None
        self._settings.drops.use()
        return Example(item.input_ids, item.loss_mask, *pixels)

    def _killed(self) -> UserError:
        return UserError(
            "a process that decodes images was killed, most likely because memory ran out; set "
            f"config.data.workers below {self._settings.reading.workers}, or to 0"
        )

    def get_state(self) -> dict[str, Any]:
        return {"made with": dict(self._settings.made_with), "rows": self._state}

    def set_state(self, state: dict[str, Any]) -> None:
        _check_same(state.get("made with", {}), self._settings.made_with)
        self._cancel()
        self._state = state["rows"]
        self._parent.set_state(self._state)

    def _cancel(self) -> None:
        while self._ahead:
            _, pixels, _ = self._ahead.popleft()
            for future in (future for row in pixels for future in row):
                future.cancel()

    def close(self) -> None:
        if self._closed:
            return
        self._cancel()
        self._executor.shutdown(wait=False, cancel_futures=True)
        super().close()


def _check_same(found: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    for key in {**expected, **found}:
        if found.get(key) != expected.get(key):
            raise UserError(
                f"the checkpoint's position in the data was made with {key} = "
                f"{found.get(key, 'unknown')}, but now it is {expected.get(key, 'unknown')}; set "
                "it back, or restart the data with --config.data.resume=False"
            )
