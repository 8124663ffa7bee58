"""Held-out examples as HTML: each supervised token coloured by its loss.

Reads the files in WORKDIR/evaluators (format: examples.py). The template escapes all text.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from owl_jax.errors import UserError
from owl_jax.files import open_regular
from owl_jax.training.evaluators.evaluator import DIRECTORY

# Nats between two colours; index of the last colour, which stands for all higher losses.
_STEP, _COLORS = 0.5, 12


def held_out_examples(workdir: Path) -> str:
    """HTML, with its <style>, of the examples of all evaluators of a run; "" if there are none.

    Raises UserError for a file that cannot be read.
    """
    found = {
        path.stem: report
        for path in sorted((workdir / DIRECTORY).glob("*.json"))
        if (report := _read(path)).get("examples")
    }
    return render_examples(found) if found else ""


def render_examples(reports: Mapping[str, Mapping[str, Any]]) -> str:
    """HTML of the evaluators' results, by name."""
    environment = Environment(
        loader=PackageLoader("owl_jax.training.evaluators"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    template = environment.get_template("token_losses.html")
    legend = [(level, level * _STEP) for level in range(_COLORS + 1)]
    return template.render(reports=reports, level=_level, nats=_nats, legend=legend, colors=_COLORS)


def _level(loss: float | None) -> int:
    """The index of a loss's colour. A non-finite loss, null in JSON, has the last one."""
    return _COLORS if loss is None else min(max(int(loss / _STEP), 0), _COLORS)


def _nats(loss: float | None) -> str:
    return "not finite" if loss is None else f"{loss:.2f}"


def _read(path: Path) -> dict[str, Any]:
    try:
        with open_regular(path) as file:
            report = json.loads(file.read())
    except (OSError, ValueError, RecursionError):
        report = None
    if not isinstance(report, dict):
        raise UserError(f"{path}: cannot be read as an evaluator's JSON object; move it away")
    return report
