"""The ablation's numbers: the arms' answers, means and intervals, tables, figure and report.html.

Letters: R training runs of an arm (seeds), I questions of a kind.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import owl_jax
from owl_jax.demo.answers import answer, verdicts
from owl_jax.demo.questions import Question
from owl_jax.evaluation.intervals import interval_over_runs
from owl_jax.files import write_whole
from owl_jax.pages.chart import Bar, Chart, dot_chart
from owl_jax.pages.page import render
from owl_jax.training.report import loss_chart

# Column of the tables -> the kind of questions in demo/evaluation.py.
COLUMNS = {
    "picture": "image",
    "two pictures": "multi_image",
    "video": "video",
    "text alone": "text",
}
TEXT = "text alone"

# {arm: {column: for each run, whether each question was answered right}}.
Verdicts = Mapping[str, Mapping[str, Sequence[Sequence[bool]]]]


class Answered:
    """The questions, and which of them the models of each arm answered right.

    groups: by column, the group of each question. The closed list of facts repeats, so text-only
      questions are grouped by their text; each other question has a scene of its own.
    """

    def __init__(self, asked: Mapping[str, Sequence[Question]]) -> None:
        self._asked = {column: asked[kind] for column, kind in COLUMNS.items()}
        self.groups = {
            column: [
                str(number) if question.images or question.videos else question.prompt_text
                for number, question in enumerate(items)
            ]
            for column, items in self._asked.items()
        }
        self.verdicts: dict[str, dict[str, list[list[bool]]]] = {}

    def ask(self, arm: str, model: Path) -> None:
        """Adds one training run's model to an arm."""
        owl = owl_jax.load(model, dtype="float32")
        runs = self.verdicts.setdefault(arm, {column: [] for column in COLUMNS})
        for column, items in self._asked.items():
            runs[column].append(verdicts(items, answer(owl, items)))


def summarize(
    found: Verdicts, groups: Mapping[str, Sequence[str]], recipe: str, before: str
) -> dict[str, Any]:
    """What report.json has beside the settings.

    arms: for each arm and column, the mean and the sample standard deviation over the runs, and the
    interval; for each arm but the recipe, its difference to that, paired by run and question.
    text_change: for each arm that has a stage 2, the accuracy at text-only questions before and
    after, and the difference.

    Args:
      groups: by column, the group of each question.
      recipe: the arm that the others are compared with.
      before: the arm without stage 2. Stage 1 freezes the language model, so its text-only answers
        are those of every arm before stage 2.
    """
    scores = {
        arm: {column: np.array(runs, float) for column, runs in columns.items()}
        for arm, columns in found.items()
    }
    arms: dict[str, dict[str, dict[str, Any]]] = {}
    for arm, columns in scores.items():
        arms[arm] = {}
        for column, values in columns.items():
            means = values.mean(axis=1).tolist()
            summary = arms[arm][column] = {
                "mean": statistics.fmean(means),
                "stdev": statistics.stdev(means) if len(means) > 1 else 0.0,
                "interval": _interval(values, groups[column]),
            }
            if arm != recipe:
                summary["difference"] = _difference(scores[recipe][column], values, groups[column])
    return {
        "asked": {column: len(names) for column, names in groups.items()},
        "arms": arms,
        "text_change": {
            arm: {
                "before": arms[before][TEXT]["mean"],
                "after": arms[arm][TEXT]["mean"],
                "difference": _difference(scores[before][TEXT], columns[TEXT], groups[TEXT]),
            }
            for arm, columns in scores.items()
            if arm != before
        },
    }


def _difference(
    first: np.ndarray, second: np.ndarray, groups: Sequence[str]
) -> dict[str, float | list[float]]:
    """The second minus the first, float[R, I] each, with the interval."""
    return {
        "value": float(second.mean() - first.mean()),
        "interval": _interval(second - first, groups),
    }


def _interval(scores: np.ndarray, groups: Sequence[str]) -> list[float]:
    found = interval_over_runs(scores, groups)
    return [found.low, found.high]


def format_tables(report: Mapping[str, Any]) -> str:
    """The report as text tables, in percent with 95 % intervals."""
    arms = report["arms"]
    header = f"{'held-out accuracy, %':<26}" + "".join(f"{name:>22}" for name in COLUMNS)
    lines = [header, "-" * len(header)]
    for arm, columns in arms.items():
        cells = (_cell(c["mean"], c["interval"], ".1f") for c in columns.values())
        lines.append(f"{arm:<26}" + "".join(f"{cell:>22}" for cell in cells))
    lines += ["", "difference to the first", "-" * len(header)]
    for arm, columns in list(arms.items())[1:]:
        differences = (columns[column]["difference"] for column in COLUMNS)
        cells = (_cell(d["value"], d["interval"], "+.1f") for d in differences)
        lines.append(f"{arm:<26}" + "".join(f"{cell:>22}" for cell in cells))
    header = f"{'text alone, %':<26}{'before stage 2':>22}{'after':>22}{'difference':>22}"
    lines += ["", header, "-" * len(header)]
    for arm, change in report["text_change"].items():
        found = change["difference"]
        difference = _cell(found["value"], found["interval"], "+.1f")
        before, after = f"{100 * change['before']:.1f}", f"{100 * change['after']:.1f}"
        lines.append(f"{arm:<26}{before:>22}{after:>22}{difference:>22}")
    seeds = report["seeds"]
    drawn = f"{seeds} seeds and questions" if seeds > 1 else "questions; one seed"
    return "\n".join([*lines, "", f"mean [95 % interval] over {drawn}"])


def _cell(value: float, interval: Sequence[float], form: str) -> str:
    low, high = (format(100 * end, form) for end in interval)
    return f"{100 * value:{form}} [{low}, {high}]"


def figure(report: Mapping[str, Any]) -> Chart:
    """The accuracies of the arms with their intervals."""
    rows = {
        arm: [
            Bar(column, 100 * found["mean"], *(100 * end for end in found["interval"]))
            for column, found in columns.items()
        ]
        for arm, columns in report["arms"].items()
    }
    title = "Held-out questions answered right, with 95 % intervals"
    return dot_chart(title, rows, "percent right", 100)


def write_report(
    path: Path, report: Mapping[str, Any], runs: Mapping[str, Mapping[str, Path]]
) -> None:
    """Writes report.html.

    Args:
      report: the contents of report.json.
      runs: {title of a chart of losses: {name of a training run: its workdir}}.
    """
    page = render(
        __package__,
        "ablation.html",
        title="What the stages and the data are worth",
        report=report,
        figure_chart=figure(report),
        losses=[loss_chart(title, workdirs) for title, workdirs in runs.items()],
    )
    write_whole(path, page)
