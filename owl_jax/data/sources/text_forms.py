"""The forms in which data sets write what was said, as OpenAI-style messages.

    turns         conversations, conversation, messages, dialog: [{from, value} or {role, content}]
    pairs         texts, qa, qa_pairs: [{user, assistant} or {question, answer}], pictures first
    one turn      question and answer(s), query and response, instruction (and input) and output,
                  prompt and completion or response, prefix and suffix, problem and solution;
                  `system` and `history` before it where they are there
    a caption     caption(s), or text that is no conversation, beside a picture or video

The first of these that an example has is read. Words may be str or bytes in UTF-8; an answer may be
a number. Of several answers the commonest counts (the first of those), of several captions the
first.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence, Set
from typing import Any

import numpy as np

from owl_jax.errors import UserError, listed, shown
from owl_jax.text.conversation import IMAGE_TOKEN, VIDEO_TOKEN

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

LIST_KEYS = frozenset({*_TURNS, *_PAIRS, "history"})  # which hold lists; no cell of a table does
TEXT_KEYS = frozenset(
    {*_TURNS, *_PAIRS, *_CAPTIONS, *(key for pair in _ONE_TURN for key in pair)}
    | {"input", "system", "history", "task_type", "id"}
)

_ROLES = {
    "human": "user",
    "prompter": "user",
    "gpt": "assistant",
    "bot": "assistant",
    "chatgpt": "assistant",
    "ai": "assistant",
    "model": "assistant",
}
_MARKS = {IMAGE_TOKEN: "image", "<video>": "video", VIDEO_TOKEN: "video"}
_MARK = re.compile(f"({'|'.join(map(re.escape, _MARKS))})")


def messages_of(values: Mapping[str, Any], num_images: int, num_videos: int) -> list[Any]:
    """The messages of an example in any of the forms above.

    num_images, num_videos: what lies beside the words; a question or caption without marks of its
    own follows all of them.

    Raises UserError for an example of none of the forms, naming what it has, and UnicodeError for
    words that are not UTF-8.
    """
    media = [{"type": "image"}] * num_images + [{"type": "video"}] * num_videos
    if key := _first_key(values, _TURNS):
        messages = [_message(turn) for turn in _rows(values[key], key)]
        system = decoded(values.get("system"))
        if isinstance(system, str) and system.strip() and not _begins_with_system(messages):
            messages.insert(0, {"role": "system", "content": system})
        return messages
    if key := _first_key(values, _PAIRS):
        return _pairs(_rows(values[key], key), key, media)
    for question, answer in _ONE_TURN:
        if _has(values, question) and _has(values, answer):
            return _one_turn(values, question, answer, media)
    if media and (key := _first_key(values, _CAPTIONS)):
        return [_asked("", media), _answered(_caption(values[key], key))]
    keys = listed(map(repr, values), 8) or "no keys"
    raise UserError(f"has {keys}; {_EXPECTED}")


def make_a_form(keys: Set[str], with_media: bool) -> bool:
    """Whether columns of these names are an example of the original's form or of one above."""
    return (
        "text" in keys
        or any(pair <= keys for pair in map(set, _ONE_TURN))
        or (with_media and not keys.isdisjoint(_CAPTIONS))
    )


def is_caption(text: str) -> bool:
    """Whether a text of the original's form holds no turn, so that it can only be a caption."""
    return not re.search(r"(?m)^(?:AI|Human): ", text) and not _MARK.search(text)


def string(values: Mapping[str, Any], key: str) -> str:
    """The words under a key. Raises UserError for anything but a text."""
    return _words(values[key], key)


def _words(value: Any, key: str) -> str:
    value = decoded(value)
    if not isinstance(value, str):
        raise UserError(f'"{key}" holds {type(value).__name__}; expected a text')
    return value


def decoded(value: Any) -> Any:
    """Words that a file gives as bytes, as text; anything else as it is."""
    return value.decode() if isinstance(value, bytes) else value


def _one_turn(
    values: Mapping[str, Any], question: str, answer: str, media: Sequence[Mapping[str, str]]
) -> list[dict[str, Any]]:
    asked = string(values, question)
    if question == "instruction" and _has(values, "input"):  # Alpaca's
        asked = f"{asked}\n{string(values, 'input')}"
    said = _answer(values[answer], answer)
    earlier = _history(values.get("history"))
    messages: list[dict[str, Any]] = []
    if _has(values, "system"):
        messages.append({"role": "system", "content": string(values, "system")})
    for number, (before, after) in enumerate([*earlier, (asked, said)]):
        messages += [_asked(before, [] if number else media), _answered(after)]
    return messages


def _history(value: Any) -> list[tuple[str, str]]:
    """[[question, answer], ...] of the turns before."""
    if value is None or (isinstance(value, list | tuple | np.ndarray) and not len(value)):
        return []
    pairs = _rows(value, "history")
    if not all(isinstance(pair, list | tuple | np.ndarray) and len(pair) == 2 for pair in pairs):
        raise UserError('"history" holds no list of [question, answer]')
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
    parts = _parts(question)
    marked = any(part["type"] != "text" for part in parts)
    return {"role": "user", "content": parts if marked else [*media, *parts]}


def _answered(answer: str) -> dict[str, Any]:
    return {"role": "assistant", "content": answer}


def _answer(value: Any, key: str) -> str:
    """An answer's words; the commonest of several, as VQAv2 has ten for a question."""
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
        return _words(value, key)
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


def _message(turn: Any) -> Any:
    """A turn of LLaVA's or OpenAI's as a message; what is neither is left to be refused."""
    if not isinstance(turn, Mapping):
        return turn
    role = decoded(_first(turn, "from", "role", "speaker"))
    role = _ROLES.get(role.lower(), role.lower()) if isinstance(role, str) else role
    content = decoded(_first(turn, "value", "content", "text"))
    if isinstance(content, str):
        if role == "user":
            content = _parts(content) if "value" in turn else _with_marks(content)
    elif content is not None:
        content = [_part(part) for part in _rows(content, "content")]
    if role == "user" and (media := _media_of(turn)):
        content = [*media, *(_parts(content) if isinstance(content, str) else content or [])]
    return {"role": role, "content": content}


def _media_of(turn: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What a turn shows beside its words, as parts: {"role": ..., "content": ..., "image": ...}."""
    media = []
    for key in ("image", "images", "video", "videos"):
        kind, value = key.removesuffix("s"), turn.get(key)
        values = value if isinstance(value, list | tuple) else [value]
        media += [{"type": kind, kind: item} for item in values if item is not None]
    return media


def _parts(text: str) -> list[dict[str, str]]:
    """A text with marks in it as parts; each mark becomes a line of its own."""
    return [{"type": _MARKS.get(piece, "text"), "text": piece} for piece in _MARK.split(text)]


def _with_marks(text: str) -> str:
    """The text with the marks that a prompt has: LLaMA-Factory writes <video>."""
    return text.replace("<video>", VIDEO_TOKEN)


def _part(part: Any) -> Any:
    if isinstance(part, str):
        return {"type": "text", "text": part}
    if not isinstance(part, Mapping):
        return part
    words = {key: decoded(part[key]) for key in ("type", "text") if key in part}
    if isinstance(words.get("text"), str):
        words["text"] = _with_marks(words["text"])
    # Qwen's first form: {"image": "a.jpg"} and {"text": "..."}.
    if "type" not in words:
        words["type"] = next((kind for kind in ("image", "video", "text") if kind in part), None)
    return {**part, **words}


def _rows(value: Any, key: str) -> list[Any]:
    """A list of objects, also where it is stored by columns as an object of lists."""
    if isinstance(value, list | tuple | np.ndarray):
        return list(value)
    if isinstance(value, Mapping):
        columns = list(value.values())
        is_table = all(isinstance(column, list | tuple | np.ndarray) for column in columns)
        if is_table and len({len(column) for column in columns}) == 1:
            return [dict(zip(value, row, strict=True)) for row in zip(*columns, strict=True)]
    raise UserError(f'"{key}" holds {type(value).__name__}; expected a list of objects')


def _begins_with_system(messages: Sequence[Any]) -> bool:
    return bool(messages) and isinstance(messages[0], Mapping) and messages[0]["role"] == "system"


def _first(values: Mapping[str, Any], *keys: str) -> Any:
    """The value of the first key that has one."""
    return next((values[key] for key in keys if values.get(key) is not None), None)


def _first_key(values: Mapping[str, Any], keys: Sequence[str]) -> str | None:
    return next((key for key in keys if _has(values, key)), None)


def _has(values: Mapping[str, Any], key: str) -> bool:
    return values.get(key) is not None
