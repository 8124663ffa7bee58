"""Saves checkpoints: when they are due, with the last step, and when the data fail."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import jax

from owl_jax.training.hooks.hook import Hook
from owl_jax.training.run import Halted, Run, StepEvent


class SaveCheckpoints(Hook):
    """Every `config.checkpoint_every` steps; checkpoint/manager.py does the work."""

    @contextmanager
    def training(self, run: Run) -> Iterator[None]:
        """Waits for the last save at the end."""
        self._run = run
        try:
            yield
        except Halted as halt:
            # Once the cause is mended the run goes on from here. Several processes do not agree on
            # a step now.
            if jax.process_count() == 1 and halt.last:
                self._save(halt.last, force=True)
            raise
        with run.pause(counted=True):
            run.checkpoints.wait()

    def after_step(self, event: StepEvent) -> None:
        """Starts to save, if it is due; reports what went wrong with an earlier save."""
        with self._run.pause(counted=True):
            self._save(event, event.ends)

    def _save(self, event: StepEvent, force: bool) -> None:
        run = self._run
        run.checkpoints.save(event.number, event.state, run.data.batches, run.meta, force)
