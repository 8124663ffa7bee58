"""Saves checkpoints: at intervals, after the last step, and when the data fail."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import jax

from owl_jax.training.hooks.hook import Hook
from owl_jax.training.run import Halted, Run, StepEvent


class SaveCheckpoints(Hook):
    """Saves every `config.checkpoint_every` steps (checkpoint/manager.py)."""

    @contextmanager
    def training(self, run: Run) -> Iterator[None]:
        """Saves after `Halted`; waits for the last save."""
        self._run = run
        try:
            yield
        except Halted as halt:
            # The run resumes from here once the cause is fixed. Several processes may be at
            # different steps now, so they do not save.
            if jax.process_count() == 1 and halt.last:
                self._save(halt.last, force=True)
            raise
        with run.pause(counted=True):
            run.checkpoints.wait()

    def after_step(self, event: StepEvent) -> None:
        """Starts a save if it is due; raises the error of an earlier save."""
        with self._run.pause(counted=True):
            self._save(event, event.ends)

    def _save(self, event: StepEvent, force: bool) -> None:
        run = self._run
        run.checkpoints.save(event.number, event.state, run.data.batches, run.meta, force)
