"""Reads yes or no as toolkits do; each benchmark's own rule is in its file."""

from __future__ import annotations

from owl_jax.evaluation.scorers.vqa import without_marks


def whole_word(answer: str) -> str | None:
    """VLMEvalKit's rule: "Yes" or "No" if exactly one of the two is a word of the answer.

    Source: open-compass/VLMEvalKit, YOrN_Extraction.
    """
    found = {"yes", "no"} & set(without_marks(answer.lower()).split())
    return found.pop().capitalize() if len(found) == 1 else None
