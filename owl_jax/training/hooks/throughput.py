"""How fast a run goes: throughput, model FLOPs utilization, waiting for data, memory."""

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
    """Counts steps between two reads.

    Steps run while the loop goes on to the next: a thread waits for the end of each.

    Args:
      parts: of the data, this process reads one.
      flops: model work of a step over all devices (training/flops.py).
      peak: operations a second of all devices, or None where it is not known.
    """

    def __init__(self, parts: int, flops: float, peak: float | None) -> None:
        self._parts, self._flops, self._peak = parts, flops, peak
        self._watch = ThreadPoolExecutor(1, thread_name_prefix="end-of-step")
        self._end: Future[float] | None = None  # of the step before
        self._left_out = 0.0  # seconds since the start
        self._reset(self._now())

    def _reset(self, now: float) -> None:
        self._ends: list[Future[float]] = []
        self._conversations, self._used, self._positions = 0, 0, 0
        self._waited = 0.0
        self._start = now

    def _now(self) -> float:
        """Seconds, without those that are left out."""
        return time.monotonic() - self._left_out

    def waited_for_data(self, asked: float, arrived: float) -> None:
        """The next batch was asked for and arrived at these times (`time.monotonic()`)."""
        start, now = asked - self._left_out, arrived - self._left_out
        if self._end is None:  # the first batch
            self._waited += now - start
        elif self._end.done():
            self._waited += max(0.0, now - max(start, self._end.result()))

    @contextmanager
    def leaving_out(self) -> Iterator[None]:
        """Around what is no training; waits for the steps that were started."""
        if self._end is not None:
            self._end.result()
        start = time.monotonic()
        yield
        self._left_out += time.monotonic() - start

    def count(self, result: jax.Array, rows: Batch) -> None:
        """A step was started. result: something that it computes. rows: this process's, on the
        host."""
        self._end = self._watch.submit(self._wait, result)
        self._ends.append(self._end)
        self._conversations += int(rows.segment_ids.max(axis=1).sum())
        self._used += int(np.count_nonzero(rows.segment_ids))
        self._positions += rows.segment_ids.size

    def read(self) -> dict[str, float]:
        """The rates since the last read; waits for the device.

        tokens_per_second: all positions of the rows; useful_tokens_per_second: without padding.
        examples_per_second: conversations. row_fill: the share of positions that are not padding.
        data_wait: the share of the time in which the device had nothing to do because the batch
        was not there. step_seconds/pN: percentiles of the time from the end of one step to the end
        of the next. mfu: where the peak is known. memory_peak_bytes: of this process's first device
        since the start, where the device tells.
        """
        ends = [end.result() for end in self._ends]
        elapsed = ends[-1] - self._start
        seconds = np.diff([self._start, *ends])
        rates = {
            "tokens_per_second": self._positions * self._parts / elapsed,
            "useful_tokens_per_second": self._used * self._parts / elapsed,
            "examples_per_second": self._conversations * self._parts / elapsed,
            "row_fill": self._used / self._positions,
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
        """Lets go of the thread, which may still wait for a step."""
        self._watch.shutdown(wait=False, cancel_futures=True)

    def _wait(self, result: jax.Array) -> float:
        result.block_until_ready()
        return self._now()
