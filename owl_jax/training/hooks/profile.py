"""A trace of some steps for TensorBoard's and XProf's profilers, by `config.profile`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import jax

from owl_jax.training.hooks.hook import Hook
from owl_jax.training.run import Run, StepEvent

DIRECTORY = "profile"  # in the workdir


class Profile(Hook):
    """Traces steps `first` to `last`, both included, or those of them that the run still takes.

    Each process writes what its own devices and threads do: under WORKDIR/profile, or if there are
    several, under WORKDIR/profile/process-N.
    """

    def __init__(self, first: int, last: int) -> None:
        self._first, self._last = first, last
        self._directory = Path()
        self._tracing = False

    @contextmanager
    def training(self, run: Run) -> Iterator[None]:
        """Ends the trace, if the run ends first."""
        self._run, self._directory = run, run.workdir / DIRECTORY
        if jax.process_count() > 1:
            self._directory /= f"process-{jax.process_index()}"
        try:
            yield
        finally:
            self._close()

    def before_step(self, number: int) -> None:
        """Begins the trace, and names what belongs to the step."""
        if not self._tracing and self._first <= number <= self._last:
            jax.profiler.start_trace(self._directory)
            self._tracing = True
        self._step = jax.profiler.StepTraceAnnotation("train", step_num=number)
        self._step.__enter__()

    def step_started(self, event: StepEvent) -> None:
        """Writes the trace after its last step."""
        self._step.__exit__(None, None, None)
        if self._tracing and event.number >= self._last:
            with self._run.pause():
                self._close()

    def _close(self) -> None:
        if self._tracing:
            jax.profiler.stop_trace()
            self._tracing = False
