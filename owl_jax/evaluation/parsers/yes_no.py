"""Reads yes or no as toolkits do; each benchmark's own rule is in its file."""

from __future__ import annotations

import re

_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
_COMMA_IN_NUMBER = re.compile(r"\d,\d")
_PERIOD = re.compile(r"\.(?!\d)")


def whole_word(answer: str) -> str | None:
    """VLMEvalKit's rule: "Yes" or "No" if exactly one of the two is a word of the answer.

    Source: open-compass/VLMEvalKit, YOrN_Extraction.
    """
    found = {"yes", "no"} & set(_without_punctuation(answer.lower()).split())
    return found.pop().capitalize() if len(found) == 1 else None


def _without_punctuation(text: str) -> str:
    """VQA's rule: a mark goes if it stands beside a space anywhere, and else becomes a space."""
    found = text
    in_number = _COMMA_IN_NUMBER.search(text) is not None
    for mark in _PUNCTUATION:
        beside_space = f"{mark} " in text or f" {mark}" in text
        found = found.replace(mark, "" if beside_space or in_number else " ")
    return _PERIOD.sub("", found)
