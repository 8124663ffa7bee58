"""The interface of hooks: what else happens in a run, besides steps and evaluations.

The loop (training/loop.py) has a list of hooks and calls each of these methods on all of them, in
the list's order; context managers are left in the opposite order. hooks/default.py makes the list.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from owl_jax.training.run import Run, StepEvent


class Hook:
    """Does nothing; a hook overrides what it needs.

    Every process of a run has every hook: one that writes files looks at `jax.process_index()`, and
    one that talks to other processes does so on all of them at the same step.
    """

    def holding(self, workdir: Path) -> AbstractContextManager[object]:
        """Around the whole run, from before anything is read until the model is exported."""
        return nullcontext()

    def training(self, run: Run) -> AbstractContextManager[object]:
        """Around the steps; not entered if none is left to take.

        An error that ends the run passes through it. So does `Halted`, after which the state of the
        newest step can still be saved.
        """
        return nullcontext()

    def before_step(self, number: int) -> None:
        """Before the batch of step `number` is asked for."""

    def step_started(self, event: StepEvent) -> None:
        """The device was given the step, and works on it. Must not wait for it."""

    def after_step(self, event: StepEvent) -> None:
        """Evaluators have run, `event` is complete; it may be logged, saved, or end the run."""

    def pause(self, counted: bool) -> AbstractContextManager[object]:
        """Around what takes long between two steps (`Run.pause`)."""
        return nullcontext()


class AfterStep(Hook):
    """A plain function as a hook: it gets the event of each step.

    function: (StepEvent) -> anything.
    """

    def __init__(self, function: Callable[[StepEvent], object]) -> None:
        self._function = function

    def after_step(self, event: StepEvent) -> None:
        """Calls the function."""
        self._function(event)
