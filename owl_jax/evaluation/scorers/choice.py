"""Choices by letter, and how VLMEvalKit reads an answer; a benchmark's own rule is in its file."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from owl_jax.evaluation.benchmark import LETTERS

REFUSED = "Z"  # what VLMEvalKit calls an answer that is none of the choices

# Sentences that VLMEvalKit takes for a refusal.
_REFUSALS = (
    "Sorry, I can't help with images of people yet.",
    "I can't process this file.",
    "I'm sorry, but without the image provided",
    "Cannot determine the answer",
)
_API_FAILED = "Failed to obtain answer via API"
_MARKS = str.maketrans(dict.fromkeys(".()[],:;!*#{}", " "))
_ANSWER_IS = re.compile(r"answer\s+is\s+\**([A-D])\**", re.IGNORECASE)
_LAST_WORDS = 4


def lettered(choices: Sequence[str]) -> dict[str, str]:
    """The choices by letter; without empty ones, which a table has for a question with fewer."""
    return {letter: text for letter, text in zip(LETTERS, choices, strict=False) if text}


def least(losses: Sequence[float]) -> str:
    """The letter of the choice with the least loss; the first of equals."""
    return LETTERS[min(range(len(losses)), key=losses.__getitem__)]


def vlmevalkit(answer: str, choices: Mapping[str, str]) -> str | None:
    """VLMEvalKit's rule (can_infer): a letter, `REFUSED`, or None if it reads nothing.

    A letter must be a word of its own among the last four, and no other letter be in the answer.
    Else "answer is X" in any case; else the text of one choice, in an answer that is at most twice
    as long as all choices.
    """
    if _API_FAILED not in answer:
        if any(refusal in answer for refusal in _REFUSALS):
            return REFUSED
        words = answer.translate(_MARKS).split()
        found = [letter for letter in choices if letter in words]
        if len(found) == 1 and words.index(found[0]) >= len(words) - _LAST_WORDS:
            return found[0]
        if not found and REFUSED in words:
            return REFUSED
        phrase = _ANSWER_IS.search(answer)
        if phrase and phrase[1].upper() in choices:
            return phrase[1].upper()
    if len(answer) > 2 * sum(map(len, choices.values())):
        return None
    return only_text(answer, choices)


def only_text(answer: str, choices: Mapping[str, str]) -> str | None:
    """The letter of the choice whose text is in the answer, if it is the only one."""
    found = [letter for letter, text in choices.items() if text.lower() in answer.lower()]
    return found[0] if len(found) == 1 else None
