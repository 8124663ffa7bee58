"""The interface of hooks: everything in a run besides steps and evaluations.

The loop (training/loop.py) calls each of these methods on all hooks, in the order of the list in
hooks/default.py; context managers exit in reverse order.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from owl_jax.training.run import Run, StepEvent


class Hook:
    """The base class does nothing; a hook overrides what it needs.

    Every process of a run has every hook. A hook that writes files checks `jax.process_index()`; a
    hook that communicates does so on all processes at the same step.
    """

    def holding(self, workdir: Path) -> AbstractContextManager[object]:
        """Wraps the whole run, from before anything is read until the model is exported."""
        return nullcontext()

    def training(self, run: Run) -> AbstractContextManager[object]:
        """Wraps the steps; not entered if the run is finished.

        An error that ends the run passes through it. After `Halted`, the state of the newest step
        can still be saved.
        """
        return nullcontext()

    def before_step(self, number: int) -> None:
        """Called before the batch of step `number` is requested."""

    def step_started(self, event: StepEvent) -> None:
        """Called when the step has been dispatched to the device. Must not wait for it."""

    def after_step(self, event: StepEvent) -> None:
        """Called after the evaluators, when `event` is complete; may log, save or end the run."""

    def pause(self, counted: bool) -> AbstractContextManager[object]:
        """Wraps slow work between two steps (`Run.pause`)."""
        return nullcontext()


class AfterStep(Hook):
    """A hook that calls a function, (StepEvent) -> anything, after each step."""

    def __init__(self, function: Callable[[StepEvent], object]) -> None:
        self._function = function

    def after_step(self, event: StepEvent) -> None:
        """Calls the function."""
        self._function(event)
