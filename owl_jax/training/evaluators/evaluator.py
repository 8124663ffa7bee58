"""The interface of evaluators, which measure the model at intervals of steps."""

from __future__ import annotations

import math
import numbers
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path

from ml_collections import ConfigDict

from owl_jax.errors import UserError, printable, shown
from owl_jax.training.run import Halted, Run, StepEvent

DIRECTORY = "evaluators"  # in the workdir

# Takes a step, returns {metric: number}.
Evaluate = Callable[[StepEvent], Mapping[str, float]]

_NAME = re.compile(r"\w[\w.-]*")
# The run's own metrics have these names before the slash.
OTHER_PREFIXES = ("learning_rate", "step_seconds")


class Evaluator:
    """The base class of the entries of `config.evaluators`.

    name: its metrics are called NAME/METRIC.
    every: the interval in steps; the evaluator also runs after the last step.
    """

    name: str
    every: int

    def check(self, config: ConfigDict) -> None:
        """Raises UserError for invalid settings; reads no files."""

    def open(self, run: Run) -> AbstractContextManager[Evaluate]:
        """Opens data and compiles programs, before the weights are read.

        Yields a function that is called on every process at the same step. It must not change the
        state or the training's data. Raises UserError.
        """
        raise NotImplementedError


def check_evaluators(evaluators: Sequence[Evaluator], config: ConfigDict) -> None:
    """Raises UserError for an invalid name, interval or other setting."""
    names: list[str] = []
    for number, evaluator in enumerate(evaluators):
        key = f"config.evaluators[{number}]"
        name, every = getattr(evaluator, "name", None), getattr(evaluator, "every", None)
        if not (isinstance(name, str) and _NAME.fullmatch(name)) or name in OTHER_PREFIXES:
            raise UserError(
                f"{key}: name={shown(name)}: expected letters, digits, '.', '_' and '-', as in "
                f'"coco", and not {" or ".join(OTHER_PREFIXES)}'
            )
        if name in names:
            raise UserError(
                f'{key}: name="{name}" is the name of config.evaluators[{names.index(name)}]; give '
                "each its own name"
            )
        names.append(name)
        if type(every) is not int or every < 1:
            raise UserError(f"{key} ({name}): every={shown(every)}: expected a number of steps")
        try:
            evaluator.check(config)
        except UserError as error:
            raise UserError(f"{key} ({name}): {error}") from None


class OpenEvaluators:
    """The opened evaluators of a run."""

    def __init__(self, opened: Sequence[tuple[Evaluator, Evaluate]]) -> None:
        self._opened = opened

    def run(self, run: Run, event: StepEvent) -> None:
        """Runs the evaluators that are due, and adds their numbers to the event.

        Raises Halted if one fails, since the step itself is valid.
        """
        due = [
            (evaluator, evaluate)
            for evaluator, evaluate in self._opened
            if event.number % evaluator.every == 0 or event.is_last
        ]
        if not due:
            return
        with run.pause():
            for evaluator, evaluate in due:
                try:
                    found = evaluate(event)
                    event.evaluations |= _named(evaluator.name, found)
                except UserError as error:
                    raise Halted(f"evaluator {evaluator.name}: {error}", event) from error


@contextmanager
def open_evaluators(evaluators: Sequence[Evaluator], run: Run) -> Iterator[OpenEvaluators]:
    """Opens the evaluators, closes them at the end. Raises UserError, naming the evaluator."""
    with ExitStack() as opened:
        pairs = []
        for evaluator in evaluators:
            try:
                pairs.append((evaluator, opened.enter_context(evaluator.open(run))))
            except UserError as error:
                raise UserError(f"evaluator {evaluator.name}: {error}") from error
        yield OpenEvaluators(pairs)


def results_file(workdir: Path, name: str) -> Path:
    """The file of an evaluator's results for the run's report."""
    return workdir / DIRECTORY / f"{name}.json"


def _named(name: str, found: Mapping[str, float]) -> dict[str, float]:
    if not isinstance(found, Mapping):
        raise UserError(f"it returned {shown(found)}; expected a dict of metric names to numbers")
    for metric, value in found.items():
        if not (isinstance(metric, str) and metric and metric == printable(metric)):
            raise UserError(f"a metric has the name {shown(metric)}; expected printable text")
        if not isinstance(value, numbers.Real) and getattr(value, "shape", None) != ():
            raise UserError(f"its metric {metric} is {shown(value)}; expected a number")
    return {f"{name}/{metric}": _number(value) for metric, value in found.items()}


def _number(value: float) -> float:
    return float(value) if value is not None else math.nan
