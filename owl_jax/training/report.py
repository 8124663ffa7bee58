"""Writes the report.html of a training run: curves of its metrics, and held-out examples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from markupsafe import Markup

from owl_jax.files import write_whole
from owl_jax.pages.chart import Chart, Line, line_chart
from owl_jax.pages.page import render
from owl_jax.training.evaluators.evaluator import OTHER_PREFIXES
from owl_jax.training.evaluators.page import held_out_examples
from owl_jax.training.hooks.metric_writer import FILE_NAME, read_lines
from owl_jax.training.optimizer import RATE_PREFIX


def write_curves(path: Path, workdir: Path) -> None:
    """Writes the report.html of a training run to `path`.

    It shows loss, learning rates, gradient norm, throughput, evaluations and held-out examples.
    """
    rows = _rows(workdir)
    rates = sorted({name for row in rows for name in row if name.startswith(RATE_PREFIX)})
    speeds = ("tokens_per_second", "useful_tokens_per_second")
    charts = [
        line_chart("Loss", [_line(rows, "loss")], log=True, smooth=True),
        line_chart("Learning rate", [_line(rows, name) for name in rates]),
        line_chart("Gradient norm", [_line(rows, "grad_norm")], log=True, smooth=True),
        line_chart("Tokens per second", [_line(rows, name) for name in speeds]),
        *(line_chart(name, [_line(rows, name)]) for name in _evaluations(rows)),
    ]
    page = render(
        __package__,
        "report.html",
        title=workdir.resolve().name,
        charts=charts,
        examples=Markup(held_out_examples(workdir)),  # already escaped by its own template
    )
    write_whole(path, page)


def _evaluations(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The evaluators' metrics, EVALUATOR/METRIC, in order of first appearance.

    Token counts are left out: they are the same each time.
    """
    names = dict.fromkeys(name for row in rows for name in row if "/" in name)
    return [
        name
        for name in names
        if name.partition("/")[0] not in OTHER_PREFIXES and not name.endswith("/supervised_tokens")
    ]


def loss_chart(title: str, runs: Mapping[str, Path]) -> Chart:
    """The training loss by step, on a log axis. runs: {name of a run: its workdir}."""
    lines = [replace(_line(_rows(workdir), "loss"), name=name) for name, workdir in runs.items()]
    return line_chart(title, lines, log=True, smooth=True)


def _rows(workdir: Path) -> list[dict[str, Any]]:
    """The logged steps of a workdir; empty if there are none."""
    file = workdir / FILE_NAME
    if not file.exists():
        return []
    lines, damaged = read_lines(file)
    if damaged:
        print(f"{file}: the curves skip {damaged} damaged lines", flush=True)
    return [values for _, values in lines]


def _line(rows: Sequence[Mapping[str, Any]], name: str) -> Line:
    """A metric by step, skipping steps where it is null (not finite) or missing."""
    kept = [row for row in rows if row.get(name) is not None]
    return Line(
        name.removeprefix(RATE_PREFIX), [row["step"] for row in kept], [row[name] for row in kept]
    )
