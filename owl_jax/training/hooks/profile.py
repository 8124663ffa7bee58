"""Traces the steps of `config.profile` for the profilers of TensorBoard and XProf."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import jax

from owl_jax.training.hooks.hook import Hook
from owl_jax.training.run import Run, StepEvent

DIRECTORY = "profile"  # in the workdir


class Profile(Hook):
    """Traces steps `first` to `last`, both included, or until the run ends.

    Each process traces its own devices and threads, to WORKDIR/profile, or to
    WORKDIR/profile/process-N if there are several processes.
    """

    def __init__(self, first: int, last: int) -> None:
        self._first, self._last = first, last
        self._directory = Path()
        self._tracing = False

    @contextmanager
    def training(self, run: Run) -> Iterator[None]:
        """Ends the trace if the run ends first."""
        self._run, self._directory = run, run.workdir / DIRECTORY
        if jax.process_count() > 1:
            self._directory /= f"process-{jax.process_index()}"
        try:
            yield
        finally:
            self._close()

    def before_step(self, number: int) -> None:
        """Starts the trace, and annotates the step."""
        if not self._tracing and self._first <= number <= self._last:
            jax.profiler.start_trace(self._directory)
            self._tracing = True
        self._step = jax.profiler.StepTraceAnnotation("train", step_num=number)
        self._step.__enter__()

    def step_started(self, event: StepEvent) -> None:
        """Writes the trace after the last traced step."""
        self._step.__exit__(None, None, None)
        if self._tracing and event.number >= self._last:
            with self._run.pause():
                self._close()

    def _close(self) -> None:
        if self._tracing:
            jax.profiler.stop_trace()
            self._tracing = False
