"""Converts a turn of a conversation, in the forms that data sets use, to an OpenAI-style message.

    LLaVA's          {"from": "human", "value": "<image>\\nWhat?"}
    OpenAI's         {"role": "user", "content": "What?"}, or content as a list of parts
    with media       {"role": "user", "content": "What?", "image": "a.jpg"}

A turn in another form is returned unchanged; text/conversation.py refuses it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from owl_jax.data.sources.media_keys import media_kind
from owl_jax.errors import UserError, shown
from owl_jax.text.turns import IMAGE_TOKEN, VIDEO_TOKEN

_ROLES = {
    "human": "user",
    "prompter": "user",
    "gpt": "assistant",
    "bot": "assistant",
    "chatgpt": "assistant",
    "ai": "assistant",
    "model": "assistant",
}
# mPLUG-Owl2 and mPLUG-Owl3 write <|image|>.
_MARKS = {
    IMAGE_TOKEN: "image",
    "<|image|>": "image",
    "<video>": "video",
    VIDEO_TOKEN: "video",
}
MARK = re.compile(f"({'|'.join(map(re.escape, _MARKS))})")


def message_of(turn: Any) -> Any:
    """The message of a turn. Raises UserError for media in a turn that is not the user's."""
    if not isinstance(turn, Mapping):
        return turn
    role = decoded(_first(turn, "from", "role", "speaker"))
    role = _ROLES.get(role.lower(), role.lower()) if isinstance(role, str) else role
    content = decoded(_first(turn, "value", "content", "text"))
    if isinstance(content, str):
        # Only OpenAI-style messages are taken as they are, as chat templates take them.
        content = content if "content" in turn else content.strip()
        if role == "user":
            content = parts_of(content) if "value" in turn else _with_marks(content)
    elif content is not None:
        content = [_part(part) for part in rows_of(content, "content")]
    if media := _media_of(turn):
        if role != "user":
            raise UserError(
                f"a turn of {shown(role)} holds media ({media[0]['type']}); only the user's may"
            )
        parts = parts_of(content) if isinstance(content, str) else content or []
        content = _insert_media(media, parts)
    return {"role": role, "content": content}


def _media_of(turn: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The media under keys of the turn itself, as parts."""
    media: list[dict[str, Any]] = []
    for kind in ("image", "video"):
        keys = [key for key, value in turn.items() if media_kind(key, value) == kind]
        shown_by = [key for key in keys if key in (kind, f"{kind}s")] or keys[:1]
        for value in (turn[key] for key in shown_by):
            values = value if isinstance(value, list | tuple | np.ndarray) else [value]
            media += [
                {"type": kind, kind: item}
                for item in values
                if item is not None and not (isinstance(item, str) and not item.strip())
            ]
    return media


def _insert_media(media: list[dict[str, Any]], parts: list[Any]) -> list[Any]:
    """Puts media in place of the placeholders if they match, else before the text."""
    marks = [
        n
        for n, part in enumerate(parts)
        if isinstance(part, Mapping) and part.get("text") in _MARKS and part["type"] != "text"
    ]
    if [parts[n]["type"] for n in marks] != [item["type"] for item in media]:
        return [*media, *parts]
    at = dict(zip(marks, media, strict=True))
    return [at.get(n, part) for n, part in enumerate(parts)]


def parts_of(text: str) -> list[dict[str, str]]:
    """Splits a text at its placeholders; each placeholder becomes a part."""
    return [{"type": _MARKS.get(piece, "text"), "text": piece} for piece in MARK.split(text)]


def _with_marks(text: str) -> str:
    """The text with mPLUG-Owl's placeholders: LLaMA-Factory writes <video>."""
    return text.replace("<video>", VIDEO_TOKEN).replace("<|image|>", IMAGE_TOKEN)


def _part(part: Any) -> Any:
    if isinstance(part, str):
        return {"type": "text", "text": part}
    if not isinstance(part, Mapping):
        return part
    changed = {key: decoded(part[key]) for key in ("type", "text") if key in part}
    if isinstance(changed.get("text"), str):
        changed["text"] = _with_marks(changed["text"])
    # Qwen-VL's parts have no type: {"image": "a.jpg"} and {"text": "..."}.
    if "type" not in changed:
        changed["type"] = next((kind for kind in ("image", "video", "text") if kind in part), None)
    return {**part, **changed}


def rows_of(value: Any, key: str) -> list[Any]:
    """A list of objects, or an object of lists (columns) converted to one.

    Raises UserError, naming `key`, for anything else.
    """
    if isinstance(value, list | tuple | np.ndarray):
        return list(value)
    if isinstance(value, Mapping):
        columns = list(value.values())
        is_table = all(isinstance(column, list | tuple | np.ndarray) for column in columns)
        if is_table and len({len(column) for column in columns}) == 1:
            return [dict(zip(value, row, strict=True)) for row in zip(*columns, strict=True)]
    raise UserError(f'"{key}" holds {type(value).__name__}; expected a list of objects')


def decoded(value: Any) -> Any:
    """Decodes bytes as UTF-8; returns anything else unchanged."""
    return value.decode() if isinstance(value, bytes) else value


def _first(values: Mapping[str, Any], *keys: str) -> Any:
    """The value of the first key that has one."""
    return next((values[key] for key in keys if values.get(key) is not None), None)
