"""Files of answers to OwlEval as published: JSON Lines of image, question_id, question, answer,
model_id (github.com/X-PLUG/mPLUG-Owl, OwlEval/answer/)."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from owl_jax.errors import UserError, shown
from owl_jax.evaluation.benchmark import Item
from owl_jax.evaluation.data_files import numbered_json_lines, read_json_lines
from owl_jax.files import write_whole

_KEYS = ("image", "question_id", "question", "answer", "model_id")
_LETTERS = re.compile(r"[\W_]+")


@dataclass(frozen=True)
class Published:
    """A system's answers.

    model_id: what the file calls the system. answers: by the items' ids.
    reworded: ids whose question has other words there; some published files have typing errors.
    """

    model_id: str
    answers: Mapping[str, str]
    reworded: tuple[str, ...]


def read_published(path: Path, items: Sequence[Item]) -> Published:
    """The answers in a file, joined to the items by question_id.

    Four of the published files name the pictures .png, and some questions differ by spaces, marks
    or words: none of that matters. Raises UserError for a question that OwlEval does not have, one
    that is there twice, another picture, and several systems in one file.
    """
    known = {item.id: item for item in items}
    answers: dict[str, str] = {}
    systems: dict[str, None] = {}
    reworded = []
    for number, record in numbered_json_lines(path, _KEYS):
        where, id = f"{path}: line {number}", str(record["question_id"])
        if id not in known:
            raise UserError(f"{where}: OwlEval has no question {shown(id)}")
        if id in answers:
            raise UserError(f"{where}: question {id} is there twice; expected each once")
        item = known[id]
        if _stem(record["image"]) != _stem(item.fields["image"]):
            raise UserError(
                f"{where}: question {id} is about {shown(record['image'])}; expected "
                f"{item.fields['image']}"
            )
        if not isinstance(record["answer"], str):
            raise UserError(f"{where}: the answer is {shown(record['answer'])}; expected a text")
        answers[id] = record["answer"]
        systems[str(record["model_id"])] = None
        if _letters(record["question"]) != _letters(item.question):
            reworded.append(id)
    if len(systems) > 1:
        raise UserError(
            f"{path} has answers of several systems ({', '.join(systems)}); expected a file each"
        )
    return Published(next(iter(systems)), answers, tuple(reworded))


def is_published(path: Path) -> bool:
    """Whether a file of answers has the published form. Raises UserError for no JSON Lines."""
    return all(key in read_json_lines(path, ())[0] for key in _KEYS)


def write_published(
    path: Path, items: Sequence[Item], answers: Mapping[str, str], model_id: str
) -> None:
    """Writes a file that `read_published` and other people's tools read, in the items' order."""
    lines = [
        json.dumps(
            {
                "image": item.fields["image"],
                "question_id": item.fields["question_id"],
                "question": item.question,
                "answer": answers[item.id],
                "model_id": model_id,
            },
            ensure_ascii=False,
        )
        for item in items
        if item.id in answers
    ]
    write_whole(path, "".join(f"{line}\n" for line in lines))


def _stem(name: object) -> str:
    return PurePosixPath(str(name)).stem


def _letters(text: object) -> str:
    """Letters and digits alone, in lower case."""
    return _LETTERS.sub("", str(text)).lower()
