"""A judge that says "Correct" or "Incorrect" (TempCompass, github.com/llyx97/TempCompass)."""

from __future__ import annotations


def is_correct(reply: str) -> bool | None:
    """What the judge says; None if it says neither. The words begin with a capital."""
    if "Correct" not in reply and "Incorrect" not in reply:
        return None
    if reply.startswith("Correct"):
        return True
    return "Incorrect" not in reply


# Our own words, for benchmarks whose official prompt is not at hand.
PROMPT = (
    "You get a question, its correct answer, and the answer of a model. Decide whether the model's "
    "answer means the same as the correct one, as an answer to this question. Reply with one word: "
    '"Correct" or "Incorrect".'
)
