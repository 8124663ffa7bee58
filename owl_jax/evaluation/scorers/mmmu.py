"""Reads answers by the rules of MMMU and MMMU-Pro: a letter, or an open answer.

Source: github.com/MMMU-Benchmark/MMMU, eval_utils.py and mmmu-pro/evaluate.py. Where those answer
at random, these functions return None.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

_STRIPPED = (",", ".", "!", "?", ";", ":", "'")
_WORDS_OF_TEXT = 5  # the text of an option counts only in answers of more words

# "1,234,567"; "1.2e-3"; "12", "1.5", ".5".
_NUMBERS = (
    re.compile(r"-?\b\d{1,3}(?:,\d{3})+\b"),
    re.compile(r"-?\d+(?:\.\d+)?[eE][+-]?\d+"),
    re.compile(r"-?(?:\d+\.\d+|\.\d+|\d+\b)(?![eE][+-]?\d+)(?![,\d])"),
)
_BEFORE_ANSWER = ("could be ", "so ", "is ", "thus ", "therefore ", "final ", "answer ", "result ")
_SENTENCE_END = re.compile(r"\.\s(?=[A-Z])|\n")
_TRIVIAL = frozenset(":,.!?;'")

Open = str | float


def choice(answer: str, choices: Mapping[str, str], bare: Sequence[str]) -> str | None:
    """The letter of a choice, or None.

    bare: forms of a letter without brackets, with {} for it; the first that is found counts.
    Letters in brackets win; then bare letters; then the texts of choices. The last of several wins.
    """
    text = answer
    for mark in _STRIPPED:
        text = text.strip(mark)
    text = f" {text} "
    for form in ("({})", *bare):
        # Places of bare letters are compared between spaces, also if another form found them.
        place = form if form.startswith("(") else " {} "
        found = [letter for letter in choices if form.format(letter) in text]
        if found:
            return max(found, key=lambda letter: text.rfind(place.format(letter)))
    if len(text.split()) <= _WORDS_OF_TEXT:
        return None
    lower = text.lower()
    found = [letter for letter, option in choices.items() if option.lower() in lower]
    return max(found, key=lambda letter: lower.rfind(choices[letter].lower()), default=None)


def open_answer(answer: str) -> list[Open]:
    """The different texts and numbers in the answer to an open question, sorted as texts.

    What counts is the end of each line after "so", "is", "answer" and the like, and after "=" in
    the last line; the whole answer if there is none.
    """
    text = answer.strip().strip(".").lower()
    lines = _SENTENCE_END.split(text)
    ends = []
    for number, line in enumerate(lines):
        marks = (*_BEFORE_ANSWER, "=") if number == len(lines) - 1 else _BEFORE_ANSWER
        after = [line.split(mark)[-1].strip() for mark in marks if mark in line]
        end = _shortest(after)
        if end and end not in _TRIVIAL:
            ends.append(end)
    ends = ends or [text]
    numbers = [number for end in ends for form in _NUMBERS for number in form.findall(end)]
    found = {value for part in [*ends, *numbers] for value in normalised(part)}
    return sorted(found, key=str)


def normalised(text: str) -> list[Open]:
    """A number rounded to two decimals, or the lower-cased text; one letter with a space beside it,
    so that it is found as a word only."""
    text = text.strip()
    try:
        return [round(float(text.replace(",", "")), 2)]
    except ValueError:
        lower = text.lower()
        return [f" {lower}", f"{lower} "] if len(lower) == 1 else [lower]


def open_correct(found: Sequence[Open], truths: Sequence[str]) -> bool:
    """Whether a true text is inside a text that was found, or a true number equals a number."""
    true = [value for truth in truths for value in normalised(truth)]
    return any(
        any(isinstance(text, str) and text in value for text in true)
        if isinstance(value, str)
        else value in true
        for value in found
    )


def _shortest(texts: Sequence[str]) -> str:
    """The first shortest text; an empty one gives way to those after it."""
    shortest = ""
    for text in texts:
        if not shortest or len(text) < len(shortest):
            shortest = text
    return shortest
