"""Converts the text of an example, in the forms that data sets use, to OpenAI-style messages.

    turns         conversations, conversation, messages, dialog: a list of turns (sources/turns.py)
    pairs         texts, qa, qa_pairs: [{user, assistant} or {question, answer}], images first
    one turn      question and answer(s), query and response, instruction (and input) and output,
                  prompt and completion or response, prefix and suffix, problem and solution;
                  preceded by `system` and `history` if present
    a caption     caption(s), or text that is no conversation, of an image or video

The first form in this list that matches is read. Text may be str or bytes in UTF-8; an answer may
be a number. If there are several answers, the most common one is used; if several captions, the
first.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence, Set
from typing import Any

import numpy as np

from owl_jax.data.sources.turns import MARK, decoded, message_of, parts_of, rows_of
from owl_jax.errors import UserError, listed, shown

_TURNS = ("conversations", "conversation", "messages", "dialog", "dialogue", "dialogs", "chat")
_PAIRS = ("texts", "qa", "qa_pairs", "qas", "question_answer_pairs")
_ONE_TURN = (
    ("question", "answer"),
    ("question", "answers"),
    ("question", "multiple_choice_answer"),
    ("question", "response"),
    ("query", "response"),
    ("query", "answer"),
    ("instruction", "output"),
    ("instruction", "response"),
    ("instruction", "answer"),
    ("prompt", "completion"),
    ("prompt", "response"),
    ("prompt", "answer"),
    ("prompt", "output"),
    ("prefix", "suffix"),
    ("problem", "solution"),
    ("problem", "answer"),
    ("input", "output"),
    ("user", "assistant"),
    ("human", "assistant"),
)
_CAPTIONS = ("caption", "captions", "text", "txt", "description", "alt_text", "alt", "sentence")
_EXPECTED = (
    "expected text, conversations, messages, question and answer, instruction and output, prompt "
    "and completion, query and response, prefix and suffix, or caption and image (docs/data.md)"
)

LIST_KEYS = frozenset({*_TURNS, *_PAIRS, "history"})  # their values are lists, never table cells
TEXT_KEYS = frozenset(
    {*_TURNS, *_PAIRS, *_CAPTIONS, *(key for pair in _ONE_TURN for key in pair)}
    | {"input", "system", "history", "task_type", "id"}
)

# Text keys whose value may look like a file name without being one.
FREE_TEXT_KEYS = frozenset({*(answer for _, answer in _ONE_TURN), "id", "task_type", "system"})

# Qwen-VL writes file names into the text.
_FILE_IN_TEXT = re.compile(r"<(img|video)>([^<>]{1,1024})</\1>")


def messages_of(values: Mapping[str, Any], num_images: int, num_videos: int) -> list[Any]:
    """The messages of an example in any of the forms above.

    White space at the ends of messages is kept if the example has OpenAI-style ones.

    num_images, num_videos: media outside the text; they precede a question or caption that has no
    placeholders.

    Raises UserError for an unknown form, listing the keys, and UnicodeError for text that is not
    UTF-8.
    """
    media = [{"type": "image"}] * num_images + [{"type": "video"}] * num_videos
    if key := _first_key(values, _TURNS):
        messages = [message_of(turn) for turn in rows_of(values[key], key)]
        system = decoded(values.get("system"))
        if isinstance(system, str) and system.strip() and not _begins_with_system(messages):
            messages.insert(0, {"role": "system", "content": system})
        return messages
    if key := _first_key(values, _PAIRS):
        return _pairs(rows_of(values[key], key), key, media)
    for question, answer in _ONE_TURN:
        if _has(values, question) and _has(values, answer):
            return _one_turn(values, question, answer, media)
    if media and (key := _first_key(values, _CAPTIONS)):
        return [_asked("", media), _answered(_caption(values[key], key))]
    keys = listed(map(repr, values), 8) or "no keys"
    raise UserError(f"has {keys}; {_EXPECTED}")


def is_known_form(keys: Set[str], with_media: bool) -> bool:
    """Whether columns with these names are mPLUG-Owl's form or one of the above."""
    return (
        "text" in keys
        or any(pair <= keys for pair in map(set, _ONE_TURN))
        or (with_media and not keys.isdisjoint(_CAPTIONS))
    )


def is_caption(text: str) -> bool:
    """Whether a text in mPLUG-Owl's form has no turns, so it can only be a caption."""
    return not re.search(r"(?m)^(?:AI|Human): ", text) and not MARK.search(text)


def check_text(text: str) -> None:
    """Raises UserError if the text of an example without media contains a media file's name."""
    if found := _FILE_IN_TEXT.search(text):
        kind = {"img": "image"}.get(found[1], found[1])
        raise UserError(
            f"its text contains {shown(found[0], 100)}, as in Qwen-VL; write <{kind}> there and "
            f'the file in "{kind}"'
        )


def string(values: Mapping[str, Any], key: str) -> str:
    """The text under a key. Raises UserError if the value is not text."""
    return _text(values[key], key)


def _text(value: Any, key: str) -> str:
    value = decoded(value)
    if not isinstance(value, str):
        raise UserError(f'"{key}" holds {type(value).__name__}; expected a text')
    return value


def _one_turn(
    values: Mapping[str, Any], question: str, answer: str, media: Sequence[Mapping[str, str]]
) -> list[dict[str, Any]]:
    asked = string(values, question)
    if question == "instruction" and _has(values, "input"):  # Alpaca's
        asked = f"{asked}\n{string(values, 'input')}"
    answered = _answer(_chosen(values, asked, answer), answer)
    earlier = _history(values.get("history"))
    messages: list[dict[str, Any]] = []
    if _has(values, "system"):
        messages.append({"role": "system", "content": string(values, "system").strip()})
    for number, (before, after) in enumerate([*earlier, (asked, answered)]):
        messages += [_asked(before, [] if number else media), _answered(after)]
    return messages


def _chosen(values: Mapping[str, Any], asked: str, answer: str) -> Any:
    """The answer; if it is the index of a choice, as in ScienceQA, the text of that choice.

    Raises UserError if it is the letter of a choice that the question does not contain.
    """
    given = values[answer]
    key = _first_key(values, ("choices", "options"))
    choices = values[key] if key else None
    if isinstance(choices, list | tuple | np.ndarray) and len(choices):
        if isinstance(given, int | np.integer) and not isinstance(given, bool):
            if not 0 <= given < len(choices):
                raise UserError(
                    f'"{answer}" is {given}, but "{key}" has {len(choices)}, counted from 0'
                )
            return choices[given]
        is_letter = isinstance(given, str) and re.fullmatch(r"\(?[A-Z][).]?", given.strip())
        if is_letter and not any(str(choice) in asked for choice in choices):
            raise UserError(
                f'"{answer}" is {shown(given)}, a letter of "{key}", but the question does not '
                "contain them; add them to it, or write the text of the choice as the answer"
            )
    return given


def _history(value: Any) -> list[tuple[str, str]]:
    """[(question, answer), ...] of the earlier turns."""
    if value is None or (isinstance(value, list | tuple | np.ndarray) and not len(value)):
        return []
    pairs = rows_of(value, "history")
    if not all(isinstance(pair, list | tuple | np.ndarray) and len(pair) == 2 for pair in pairs):
        raise UserError('"history" is not a list of [question, answer]')
    return [
        (string({"history": q}, "history"), string({"history": a}, "history")) for q, a in pairs
    ]


def _pairs(
    rows: Sequence[Any], key: str, media: Sequence[Mapping[str, str]]
) -> list[dict[str, Any]]:
    messages: list[dict[str, Any]] = []
    for row in rows:
        found = next(
            (
                names
                for names in (("user", "assistant"), *_ONE_TURN)
                if isinstance(row, Mapping) and all(_has(row, name) for name in names)
            ),
            None,
        )
        if found is None:
            raise UserError(f'"{key}" holds {shown(row)}; expected user and assistant in each')
        question, answer = found
        messages += [
            _asked(string(row, question), [] if messages else media),
            _answered(_answer(row[answer], answer)),
        ]
    return messages


def _asked(question: str, media: Sequence[Mapping[str, str]]) -> dict[str, Any]:
    parts = parts_of(question.strip())
    marked = any(part["type"] != "text" for part in parts)
    return {"role": "user", "content": parts if marked else [*media, *parts]}


def _answered(answer: str) -> dict[str, Any]:
    return {"role": "assistant", "content": answer.strip()}


def _answer(value: Any, key: str) -> str:
    """The text of an answer, or of the most common one if there are several, like VQAv2's ten."""
    value = decoded(value)
    if isinstance(value, Mapping) and _has(value, "answer"):
        value = value["answer"]
    if isinstance(value, bool | np.bool_):
        return "yes" if value else "no"
    if isinstance(value, float | np.floating):
        return f"{value:g}"
    if isinstance(value, int | np.integer):
        return str(value)
    if not isinstance(value, list | tuple | np.ndarray):
        return _text(value, key)
    answers = [_answer(item, key) for item in value]
    if not answers:
        raise UserError(f'"{key}" is an empty list; expected an answer')
    ((answer, _),) = Counter(answers).most_common(1)
    return answer


def _caption(value: Any, key: str) -> str:
    value = decoded(value)
    if isinstance(value, list | tuple | np.ndarray):
        if not len(value):
            raise UserError(f'"{key}" is an empty list; expected a caption')
        value = value[0]
    if isinstance(value, Mapping) and _has(value, "caption"):
        value = value["caption"]
    return string({key: value}, key)


def _begins_with_system(messages: Sequence[Any]) -> bool:
    return bool(messages) and isinstance(messages[0], Mapping) and messages[0]["role"] == "system"


def _first_key(values: Mapping[str, Any], keys: Sequence[str]) -> str | None:
    return next((key for key in keys if _has(values, key)), None)


def _has(values: Mapping[str, Any], key: str) -> bool:
    return values.get(key) is not None
