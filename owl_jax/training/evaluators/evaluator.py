"""The interface of evaluators: what is measured every so many steps, and how it is called."""

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

# A step's state to the evaluator's numbers, by the name of the metric.
Evaluate = Callable[[StepEvent], Mapping[str, float]]

_NAME = re.compile(r"\w[\w.-]*")
# What stands before a slash in the metrics of a training.
OTHER_PREFIXES = ("learning_rate", "step_seconds")


class Evaluator:
    """What an entry of `config.evaluators` is; a subclass has these attributes and `open`.

    name: its metrics are called NAME/METRIC. every: it runs after each so many steps, and after the
    last one.
    """

    name: str
    every: int

    def check(self, config: ConfigDict) -> None:
        """Raises UserError for settings that make no evaluation; reads no file."""

    def open(self, run: Run) -> AbstractContextManager[Evaluate]:
        """Gets ready before the weights are read: opens data, compiles programs.

        What it yields is called with steps, on every process of a run at the same step, and must
        not change the state or the training's data. Raises UserError.
        """
        raise NotImplementedError


def check_evaluators(evaluators: Sequence[Evaluator], config: ConfigDict) -> None:
    """Raises UserError for a name, an interval or settings that do not work."""
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
                "each a name of its own"
            )
        names.append(name)
        if type(every) is not int or every < 1:
            raise UserError(f"{key} ({name}): every={shown(every)}: expected a number of steps")
        try:
            evaluator.check(config)
        except UserError as error:
            raise UserError(f"{key} ({name}): {error}") from None


class OpenEvaluators:
    """The evaluators of a run, ready to be called."""

    def __init__(self, opened: Sequence[tuple[Evaluator, Evaluate]]) -> None:
        self._opened = opened

    def run(self, run: Run, event: StepEvent) -> None:
        """Runs those that are due, and puts their numbers into the event.

        Raises Halted, since the step itself is sound, where one of them fails.
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
    """Opens all of them, and closes them in the end. Raises UserError, which names the one."""
    with ExitStack() as opened:
        pairs = []
        for evaluator in evaluators:
            try:
                pairs.append((evaluator, opened.enter_context(evaluator.open(run))))
            except UserError as error:
                raise UserError(f"evaluator {evaluator.name}: {error}") from error
        yield OpenEvaluators(pairs)


def results_file(workdir: Path, name: str) -> Path:
    """Where an evaluator leaves what the run's report shows of it beside curves."""
    return workdir / DIRECTORY / f"{name}.json"


def _named(name: str, found: Mapping[str, float]) -> dict[str, float]:
    if not isinstance(found, Mapping):
        raise UserError(
            f"it returned {shown(found)}; expected a dict of numbers by the name of the metric"
        )
    for metric, value in found.items():
        if not (isinstance(metric, str) and metric and metric == printable(metric)):
            raise UserError(f"a metric is named {shown(metric)}; expected text")
        if not isinstance(value, numbers.Real) and getattr(value, "shape", None) != ():
            raise UserError(f"its metric {metric} is {shown(value)}; expected a number")
    return {f"{name}/{metric}": _number(value) for metric, value in found.items()}


def _number(value: float) -> float:
    return float(value) if value is not None else math.nan
