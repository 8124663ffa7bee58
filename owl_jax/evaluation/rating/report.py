"""report.html of graded answers: the paper's bar chart, by turns and abilities; agreement."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from owl_jax.evaluation.benchmarks.owleval import ABILITIES
from owl_jax.evaluation.rating.tally import GRADES
from owl_jax.files import write_whole
from owl_jax.pages.chart import Chart, Stack, stacked_chart
from owl_jax.pages.page import render

_TURNS = {"all": "All questions", "single_turn": "Single turn", "multi_turn": "Multi-turn"}


def write_rating_report(path: Path, found: Mapping[str, Any]) -> None:
    """Writes the page. found: of tally.tally."""
    systems = found["systems"]
    abilities = sorted({name for system in systems.values() for name in system["abilities"]})
    page = render(
        __package__,
        "tally.html",
        title="OwlEval: people's grades",
        charts=[_chart(title, systems, turns) for turns, title in _TURNS.items()],
        grades=GRADES,
        systems=systems,
        abilities={name: ABILITIES.get(name, name) for name in abilities},
        agreement=found["agreement"],
        raters=found["raters"],
    )
    write_whole(path, page)


def _chart(title: str, systems: Mapping[str, Any], turns: str) -> Chart:
    """The shares of the grades of each system that has any, the most A's and B's first."""
    stacks = [
        Stack(name, [system[turns][grade] for grade in GRADES])
        for name, system in systems.items()
        if system[turns]
    ]
    stacks.sort(key=lambda stack: (-stack.shares[0] - stack.shares[1], -stack.shares[0]))
    return stacked_chart(title, stacks, GRADES)
