"""Measures throughput, model FLOPs utilization, waiting for data, and memory."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager

import jax
import numpy as np

from owl_jax.data.batch import Batch

_PERCENTILES = (50, 90, 99)


class Throughput:
    """Measures rates over the steps between two reads.

    Steps run asynchronously, so a thread waits for the end of each.

    Args:
      num_shards: the number of data shards; this process reads one of them.
      flops: model FLOPs of a step over all devices (training/flops.py).
      peak: FLOP/s of all devices together, or None if unknown.
    """

    def __init__(self, num_shards: int, flops: float, peak: float | None) -> None:
        self._num_shards, self._flops, self._peak = num_shards, flops, peak
        self._watch = ThreadPoolExecutor(1, thread_name_prefix="end-of-step")
        self._end: Future[float] | None = None  # of the previous step
        self._excluded = 0.0  # seconds, in total
        self._reset(self._now())

    def _reset(self, now: float) -> None:
        self._ends: list[Future[float]] = []
        self._conversations, self._useful_tokens, self._tokens = 0, 0, 0
        self._waited = 0.0
        self._start = now

    def _now(self) -> float:
        """`time.monotonic()` less the excluded time."""
        return time.monotonic() - self._excluded

    def waited_for_data(self, asked: float, arrived: float) -> None:
        """Records when the next batch was requested and arrived (`time.monotonic()`)."""
        start, now = asked - self._excluded, arrived - self._excluded
        if self._end is None:  # the first batch
            self._waited += now - start
        elif self._end.done():
            self._waited += max(0.0, now - max(start, self._end.result()))

    @contextmanager
    def leaving_out(self) -> Iterator[None]:
        """Excludes the block from the rates; first waits for the steps already dispatched."""
        if self._end is not None:
            self._end.result()
        start = time.monotonic()
        yield
        self._excluded += time.monotonic() - start

    def count(self, result: jax.Array, batch: Batch) -> None:
        """Counts a step. result: any array from the step. batch: this process's sequences."""
        self._end = self._watch.submit(self._wait, result)
        self._ends.append(self._end)
        self._conversations += int(batch.segment_ids.max(axis=1).sum())
        self._useful_tokens += int(np.count_nonzero(batch.segment_ids))
        self._tokens += batch.segment_ids.size

    def read(self) -> dict[str, float]:
        """The rates since the last read; waits for the device.

        tokens_per_second: with padding; useful_tokens_per_second: without.
        examples_per_second: conversations per second.
        row_fill: the share of tokens that are not padding.
        data_wait: the share of time that the device was idle because it waited for a batch.
        step_seconds/pN: percentiles of the time from the end of one step to the end of the next.
        mfu: only if the peak is known.
        memory_peak_bytes: of this process's first device since the start, if the device reports it.
        """
        ends = [end.result() for end in self._ends]
        elapsed = ends[-1] - self._start
        seconds = np.diff([self._start, *ends])
        rates = {
            "tokens_per_second": self._tokens * self._num_shards / elapsed,
            "useful_tokens_per_second": self._useful_tokens * self._num_shards / elapsed,
            "examples_per_second": self._conversations * self._num_shards / elapsed,
            "row_fill": self._useful_tokens / self._tokens,
            "data_wait": self._waited / elapsed,
        }
        for percent in _PERCENTILES:
            rates[f"step_seconds/p{percent}"] = float(np.percentile(seconds, percent))
        if self._peak is not None:
            rates["mfu"] = self._flops * len(ends) / (elapsed * self._peak)
        if memory := jax.local_devices()[0].memory_stats():
            rates["memory_peak_bytes"] = memory["peak_bytes_in_use"]
        self._reset(ends[-1])
        return rates

    def close(self) -> None:
        """Shuts the thread down without waiting for a step."""
        self._watch.shutdown(wait=False, cancel_futures=True)

    def _wait(self, result: jax.Array) -> float:
        result.block_until_ready()
        return self._now()
