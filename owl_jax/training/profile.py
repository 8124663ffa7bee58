"""A trace of some steps for TensorBoard's and XProf's profilers, by `config.profile`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import jax

DIRECTORY = "profile"  # in the workdir


class Profile:
    """Traces steps `first` to `last`, both included, or those of them that the run still takes.

    Each process writes what its own devices and threads do: under WORKDIR/profile, or if there are
    several, under WORKDIR/profile/process-N.
    """

    def __init__(self, workdir: Path, first: int, last: int) -> None:
        self._directory = workdir / DIRECTORY
        if jax.process_count() > 1:
            self._directory /= f"process-{jax.process_index()}"
        self._first, self._last = first, last
        self._tracing = False

    @contextmanager
    def step(self, number: int) -> Iterator[None]:
        """Around everything that belongs to step `number`."""
        if not self._tracing and self._first <= number <= self._last:
            jax.profiler.start_trace(self._directory)
            self._tracing = True
        with jax.profiler.StepTraceAnnotation("train", step_num=number):
            yield

    def ends(self, number: int) -> bool:
        """Whether step `number` is the last that is traced: `close` when it has ended."""
        return self._tracing and number >= self._last

    def close(self) -> None:
        """Ends the trace, if there is one, and writes it."""
        if self._tracing:
            jax.profiler.stop_trace()
            self._tracing = False
