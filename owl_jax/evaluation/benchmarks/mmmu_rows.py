"""What the rows of MMMU and MMMU-Pro share: lists written as texts, and pictures at marks."""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from owl_jax.errors import UserError, shown
from owl_jax.evaluation.benchmark import LETTERS, Item, Medium, Verdict
from owl_jax.evaluation.data_files import picture_bytes

_MARK = re.compile(r"<image (\d)>")


@dataclass(frozen=True)
class Pictured:
    """A question and its options with `<image>` at the place of each picture, and the pictures."""

    question: str
    options: tuple[str, ...]
    media: tuple[Medium, ...]


def list_of(text: str, where: str) -> list[str]:
    """The texts of a Python list that is written as a text. Raises UserError."""
    try:
        values = ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        values = None
    if not isinstance(values, list):
        raise UserError(f"{where}: found {shown(text)}; expected a list such as ['a', 'b']")
    return [str(value) for value in values]


def with_pictures(
    row: Mapping[str, Any], question: str, options: Sequence[str], where: str
) -> Pictured:
    """Puts the row's image_1 ... at the marks `<image 1>` ...; those without a mark come first.

    Raises UserError for a mark without a picture.
    """
    pictures = {
        name.removeprefix("image_"): picture_bytes(value, where)
        for name, value in row.items()
        if name.startswith("image_") and value is not None
    }
    marks = _MARK.findall("\n".join([question, *options]))
    if missing := set(marks) - pictures.keys():
        raise UserError(f"{where} has no image_{min(missing)}; its question shows it")
    first = [number for number in sorted(pictures) if number not in marks]
    return Pictured(
        "<image>\n" * len(first) + _MARK.sub("<image>", question),
        tuple(_MARK.sub("<image>", option) for option in options),
        tuple(Medium("image", pictures[number]) for number in [*first, *marks]),
    )


def options(item: Item) -> dict[str, str]:
    """The options by letter, as the file has them: parsers see `<image 1>` for a picture."""
    return dict(zip(LETTERS, item.fields["options"], strict=False))


def verdict(item: Item, letter: str | None) -> Verdict:
    """Of a choice: 1 / number of options where the official code takes a random letter."""
    if letter is None:
        return Verdict(None, 1 / len(item.choices))
    return Verdict(letter, float(letter == item.truth))
