"""From records to an endless, resumable stream of batches (Grain).

    mixture -> conversations -> rows -> batches of rows -> pixels -> Batch

The order is decided by the mixture and the packing alone, in the first three steps, which see no
pixel. Of the mixture, process p of n reads every n-th record.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from typing import Any, TypeAlias

import grain

from owl_jax.data.batch import Batch, Example, RowShape, collate
from owl_jax.data.conversations import Conversation, Tokenize
from owl_jax.data.decoding import Decoding, Media, Pixels, decode, make_executor
from owl_jax.data.drops import DropLog, Dropped
from owl_jax.data.mixture import WeightedSource, mix, shares
from owl_jax.data.packing import PackRows
from owl_jax.errors import UserError
from owl_jax.processing.tokenizer import Tokenizer

BatchIterator: TypeAlias = grain.DatasetIterator[Batch]
_Rows: TypeAlias = Sequence[Sequence[Conversation]]

# Batches that are being decoded while one is waited for, and batches that lie ready.
_AHEAD = 2
_READY = 1


@dataclass(frozen=True)
class Reading:
    """How the stream is read. Nothing of it but `process` and `num_processes` changes what comes.

    threads: that read records, and that decode. workers: processes that decode instead.
    process, num_processes: which part of the mixture this process reads.
    """

    threads: int = 2
    workers: int = 0
    process: int = 0
    num_processes: int = 1


def tokenized(
    sources: Sequence[WeightedSource], tokenizer: Tokenizer, shape: RowShape, seed: int
) -> grain.MapDataset[Conversation | Dropped]:
    """The endless mixture as conversations, by their number. Raises UserError as `mix`."""
    return mix(sources, seed).map_with_index(Tokenize(tokenizer, shape))


def make_batches(
    sources: Sequence[WeightedSource],
    tokenizer: Tokenizer,
    shape: RowShape,
    decoding: Decoding,
    batch_size: int,
    seed: int,
    drops: DropLog,
    open_rows: int = 64,
    reading: Reading = Reading(),
) -> BatchIterator:
    """An endless iterator of Batches of `batch_size` rows; its state goes into checkpoints.

    A record that cannot be used is dropped, counted and listed (data/drops.py); nothing stands in
    for it. A conversation whose media turn out to be unreadable leaves its place in the row empty.

    Args:
      open_rows: among how many rows a conversation finds its place (data/packing.py); 0 gives each
        a row of its own.

    Raises UserError for no source or wrong weights; the iterator raises it where too many records
    are dropped.
    """
    conversations = tokenized(sources, tokenizer, shape, seed)
    own = conversations[reading.process :: reading.num_processes]
    stream = own.to_iter_dataset(
        grain.ReadOptions(num_threads=reading.threads, prefetch_buffer_size=4 * batch_size)
    )
    rows = PackRows(stream.filter(drops.keep), conversations, shape, open_rows)
    identity = {
        "records and shares": [
            f"{len(item.source)} ({share})"
            for item, share in zip(sources, shares(sources), strict=True)
        ],
        "seed": seed,
        "data processes": reading.num_processes,
        "batch_size for each process": batch_size,
        "data.length": shape.length,
        "data.image_slots": shape.image_slots,
        "data.video_slots": shape.video_slots,
        "data.open_rows": open_rows,
    }
    finished = _FinishBatches(
        rows.batch(batch_size, drop_remainder=True, batch_fn=list),
        shape,
        decoding,
        drops,
        lambda: make_executor(reading.threads, reading.workers),
        identity,
    )
    ready = grain.experimental.ThreadPrefetchIterDataset(finished, prefetch_buffer_size=_READY)
    return iter(ready)


class _FinishBatches(grain.IterDataset[Batch]):
    """Decodes the media of rows and lays them out as a Batch.

    identity: what a checkpoint must have been made with, by the names of the settings.
    """

    def __init__(
        self,
        batches: grain.IterDataset[_Rows],
        shape: RowShape,
        decoding: Decoding,
        drops: DropLog,
        executor: Callable[[], Executor],
        identity: dict[str, Any],
    ):
        super().__init__(batches)
        self._arguments = shape, decoding, drops, executor, identity

    def __iter__(self) -> _FinishIterator:
        return _FinishIterator(iter(self._parent), *self._arguments)


class _FinishIterator(grain.DatasetIterator[Batch]):
    def __init__(
        self,
        parent: grain.DatasetIterator[_Rows],
        shape: RowShape,
        decoding: Decoding,
        drops: DropLog,
        executor: Callable[[], Executor],
        identity: dict[str, Any],
    ):
        super().__init__(parent)
        self._shape, self._decoding, self._drops, self._identity = shape, decoding, drops, identity
        self._executor = executor()
        self._state = parent.get_state()
        # What is under way, each with the parent's state behind it.
        self._ahead: deque[tuple[_Rows, list[list[Future]], dict[str, Any]]] = deque()

    def __next__(self) -> Batch:
        while len(self._ahead) <= _AHEAD:
            rows = next(self._parent)
            pixels = [[self._start(item) for item in row] for row in rows]
            self._ahead.append((rows, pixels, self._parent.get_state()))
        rows, pixels, self._state = self._ahead.popleft()
        examples = [
            [
                example
                for conversation, future in zip(row, futures, strict=True)
                if (example := self._finish(conversation, future.result()))
            ]
            for row, futures in zip(rows, pixels, strict=True)
        ]
        return collate(examples, self._shape)

    def _start(self, item: Conversation) -> Future[Pixels | Dropped]:
        media = Media(item.number, item.images, item.videos, item.has_sides, item.where)
        if item.images or item.videos:
            return self._executor.submit(decode, self._decoding, media)
        done: Future[Pixels | Dropped] = Future()
        done.set_result(decode(self._decoding, media))
        return done

    def _finish(self, conversation: Conversation, pixels: Pixels | Dropped) -> Example | None:
        if isinstance(pixels, Dropped):
            self._drops.drop(pixels)
            return None
        return Example(conversation.input_ids, conversation.loss_mask, *pixels)

    def get_state(self) -> dict[str, Any]:
        return {"made with": self._identity, "rows": self._state}

    def set_state(self, state: dict[str, Any]) -> None:
        for key, expected in self._identity.items():
            if (found := state["made with"].get(key)) != expected:
                raise UserError(
                    f"the checkpoint's position in the data was made with {key} = {found}, but "
                    f"now it is {expected}; set it back, or begin the data again with "
                    "--config.data.resume=False"
                )
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
