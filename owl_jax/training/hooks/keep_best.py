"""Keeps the checkpoint with the best value of an evaluator's metric, in WORKDIR/best."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import jax

from owl_jax.checkpoint.manager import Checkpoints
from owl_jax.errors import UserError
from owl_jax.training.hooks.hook import Hook
from owl_jax.training.run import Run, StepEvent
from owl_jax.training.start_up import say

DIRECTORY = "best"  # in the workdir
_META = "best"  # key in the checkpoint's meta


@dataclass(frozen=True)
class Best:
    """The best value of a metric, and the step that has it. mode: "max" or "min"."""

    metric: str
    mode: str
    value: float
    step: int

    def is_beaten_by(self, value: float) -> bool:
        """Whether a value is better, not only as good."""
        return value > self.value if self.mode == "max" else value < self.value


class KeepBest(Hook):
    """Saves a checkpoint after each step whose evaluation is the best so far."""

    def __init__(self, metric: str) -> None:
        """metric: "NAME/METRIC", or "min NAME/METRIC" if less is better."""
        self._metric = metric.removeprefix("min ")
        self._mode = "max" if metric == self._metric else "min"

    @contextmanager
    def training(self, run: Run) -> Iterator[None]:
        """Opens the directory; a resumed run goes on from the best value that it has."""
        self._run = run
        with closing(_open(run.workdir)) as checkpoints:
            self._checkpoints = checkpoints
            self._best = _read(checkpoints)
            if self._best and (self._best.metric, self._best.mode) != (self._metric, self._mode):
                raise UserError(
                    f"{run.workdir / DIRECTORY} has the best step by {self._best.mode} "
                    f"{self._best.metric}, but config.keep_best={run.config.keep_best!r}; move it "
                    "away"
                )
            yield

    def after_step(self, event: StepEvent) -> None:
        """Saves the step if it is the best. Raises UserError if the evaluator lacks the metric."""
        evaluator = self._metric.partition("/")[0]
        found = [name for name in event.evaluations if name.startswith(f"{evaluator}/")]
        if not found:
            return
        if self._metric not in found:
            raise UserError(
                f"config.keep_best={self._metric!r}: the evaluator has {', '.join(found)}"
            )
        value = event.evaluations[self._metric]
        if not math.isfinite(value) or (self._best and not self._best.is_beaten_by(value)):
            return
        self._best = Best(self._metric, self._mode, value, event.number)
        meta = {**self._run.meta, _META: asdict(self._best)}
        with self._run.pause(counted=True):
            # Waits: the state is donated to the next step, and a kill must not leave none.
            self._checkpoints.save(event.number, event.state, None, meta, force=True)
            self._checkpoints.wait()


def restore_best(run: Run, state: Any) -> tuple[Any, Best | None]:
    """The state of the best step instead of `state`, which is deleted; `state` and None if there is
    no best step. Raises UserError."""
    if not (run.workdir / DIRECTORY).exists():
        return state, None
    with closing(_open(run.workdir)) as checkpoints:
        best = _read(checkpoints)
        if best is None:
            return state, None
        jax.tree.map(lambda leaf: leaf.delete(), state)  # the memory may not have room for both
        expected = {} if run.config.allow_base_mismatch else run.meta
        restored, _ = checkpoints.restore(best.step, run.program.state(), None, expected)
    say(f"the model is exported as it was after step {best.step}: {best.metric} {best.value:.6g}")
    return restored, best


def _open(workdir: Path) -> Checkpoints:
    return Checkpoints(workdir / DIRECTORY, keep=1)


def _read(checkpoints: Checkpoints) -> Best | None:
    step = checkpoints.latest()
    return None if step is None else Best(**checkpoints.meta(step)[_META])
