"""Reads answers that another system gave: JSON Lines of {"id", "answer"} or {"id", "losses"}."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from owl_jax.errors import UserError, listed, shown
from owl_jax.evaluation.benchmark import Item
from owl_jax.evaluation.data_files import read_json_lines, read_text
from owl_jax.evaluation.scorers.choice import least

_LOSSES = '"losses"'  # in the first line of a file of losses


def read_answers(path: Path, items: Sequence[Item]) -> dict[str, str]:
    """The answers by id; in a file of losses, the letters of the choices with the least.

    Raises UserError for answers that are not to these items, and for losses that are not one for
    each choice.
    """
    if _LOSSES not in read_text(path).partition("\n")[0]:
        return {
            id: _text(record["answer"], f"{path}: id {id}")
            for id, record in read_records(path, items, ("id", "answer")).items()
        }
    choices = {item.id: len(item.choices) for item in items}
    return {
        id: _letter(record["losses"], choices[id], f"{path}: id {id}")
        for id, record in read_records(path, items, ("id", "losses")).items()
    }


def read_records(path: Path, items: Iterable[Item], keys: tuple[str, ...]) -> dict[str, Any]:
    """The records by id, each with all the keys. Raises UserError for an id that is there twice or
    is no item's."""
    found: dict[str, Any] = {}
    for record in read_json_lines(path, keys):
        id = str(record["id"])
        if id in found:
            raise UserError(f"{path} answers {shown(id)} twice; expected each id once")
        found[id] = record
    known = {item.id for item in items}
    if others := sorted(found.keys() - known):
        raise UserError(
            f"{path} answers {len(others):,} questions that are not in the data, such as "
            f"{listed(map(shown, others), 3)}; ids of the data look like {shown(min(known))}"
        )
    return found


def _letter(losses: Any, choices: int, where: str) -> str:
    if (
        not isinstance(losses, list)
        or len(losses) != choices
        or not all(isinstance(loss, int | float) and math.isfinite(loss) for loss in losses)
    ):
        raise UserError(
            f"{where}: the losses are {shown(losses)}; expected {choices} numbers, one for each "
            "choice"
        )
    return least(losses)


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str):
        raise UserError(f"{where}: the answer is {shown(value)}; expected a text")
    return value
