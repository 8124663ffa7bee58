"""How lmms-eval 0.7.3 reads the letter of a choice in an answer: for its numbers beside ours."""

from __future__ import annotations

import re
from collections.abc import Sequence

from owl_jax.evaluation.scorers.vqa import on_one_line, without_marks

_BEGINNING = re.compile(r"([A-E])\.\s*.+", re.IGNORECASE)
_ALONE = re.compile(r"\b[a-e]\b")
_ENDS = (",", ".", "!", "?", ";", ":", "'", '"')

# Forms of a letter and how much they count.
_FORMS = {"({})": 6, "{}.": 5, "{}:": 4, "{})": 3, "{} ": 2}
_START, _END, _PHRASE, _ANYWHERE = 10, 9, 7, 0
_PHRASES = (
    *("the answer is", "answer is", "the correct answer is", "correct answer is"),
    *("the best answer is", "best answer is", "the correct option is", "correct option is"),
    *("the best option is", "best option is", "the choice is", "choice is"),
    *("the correct choice is", "correct choice is", "i choose", "i select", "i pick"),
    *("my answer is", "my choice is", "옵션", "정답은", "답은", "답:"),
    *("答案是", "答案为", "选", "答えは"),
)


def first_letter(answer: str) -> str:
    """The letter at the beginning, as "b.", or the first that is a word of its own, in any case.

    MVBench's rule there: "a red cube" reads A. Empty if there is none.
    """
    if found := _BEGINNING.fullmatch(answer.strip()):
        return found[1].upper()
    alone = _ALONE.search(without_marks(on_one_line(answer)).lower())
    return alone[0].upper() if alone else ""


def likeliest_letter(answer: str, letters: Sequence[str]) -> str:
    """The capital in the most telling form; the last of several. MLVU's rule there."""
    text = answer.strip()
    for mark in _ENDS:
        text = text.strip(mark)
    inner = text.strip()
    text = f" {text} "
    found: list[tuple[int, int, str]] = []
    for letter in letters:
        for form, weight in _FORMS.items():
            if (place := text.rfind(form.format(letter))) >= 0:
                found.append((weight, place, letter))
        for phrase in _PHRASES:
            if (start := text.lower().find(phrase)) >= 0:
                place = text.find(letter, start + len(phrase))
                found += [(_PHRASE, place, letter)] if place >= 0 else []
        if inner.startswith(letter) and not inner[1:2].isalpha():
            found.append((_START, 0, letter))
        if inner.endswith(letter) and not inner[-2:-1].isalpha():
            found.append((_END, len(text), letter))
    if not found:
        found = [(_ANYWHERE, text.rfind(letter), letter) for letter in letters if letter in text]
    return max(found, key=lambda one: one[:2])[2] if found else ""
