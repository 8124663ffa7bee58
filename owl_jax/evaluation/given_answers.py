"""Reads answers that another system gave: JSON Lines of {"id", "answer"}."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from owl_jax.errors import UserError, listed, shown
from owl_jax.evaluation.benchmark import Item
from owl_jax.evaluation.data_files import read_json_lines


def read_answers(path: Path, items: Iterable[Item]) -> dict[str, str]:
    """The answers by id. Raises UserError for answers that are not to these items."""
    return {
        id: _text(record["answer"], f"{path}: id {id}")
        for id, record in read_records(path, items, ("id", "answer")).items()
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


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str):
        raise UserError(f"{where}: the answer is {shown(value)}; expected a text")
    return value


def as_records(answers: Mapping[str, str]) -> list[dict[str, str]]:
    """The answers in the form that `read_answers` reads."""
    return [{"id": id, "answer": answer} for id, answer in answers.items()]
