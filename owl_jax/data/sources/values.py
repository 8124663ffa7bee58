"""The forms that one example may have, whatever file it lies in, as a Record.

    the original's   text: "...\\nHuman: <image>\\nHuman: What?\\nAI: An owl.", image: ["a.jpg"]
    LLaVA's          conversations: [{from: "human", value: "<image>\\nWhat is it?"},
                                     {from: "gpt", value: "An owl."}], image: "a.jpg"
    OpenAI's         messages: [{role: "user", content: "<image>\\nWhat is it?"},
                                {role: "assistant", content: "An owl."}], images: ["a.jpg"]
    one turn         question: "What is it?", answer: "An owl.", image: "a.jpg"
    a pair           caption: "An owl.", image: "a.jpg"

The first of these that an example has is read, and other keys are passed over; a key whose value is
None counts as not there. "image", "images", "video" and "videos" are optional but for a pair; what
they hold is the matter of sources/media_values.py. Words may be str or bytes in UTF-8.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from owl_jax.data.sources.media_values import images_from, videos_from
from owl_jax.data.sources.record import Medium, Record, Video
from owl_jax.errors import BadData, UserError
from owl_jax.processing.conversation import (
    IMAGE_TOKEN,
    VIDEO_TOKEN,
    answers,
    check_media,
    text_from_messages,
)

_ROLES = {"human": "user", "gpt": "assistant"}  # LLaVA's names
_LLAVA_MEDIA = {IMAGE_TOKEN: "image", "<video>": "video", VIDEO_TOKEN: "video"}
_LLAVA_MARKS = re.compile(f"({'|'.join(map(re.escape, _LLAVA_MEDIA))})")


def record_from(values: Mapping[str, Any], where: str, media_root: Path) -> Record:
    """The record of one example.

    Args:
      values: the example in one of the forms above.
      where: "FILE:LINE" or the like, for messages.
      media_root: what relative paths of media are relative to.

    Raises BadData where the example has none of the forms, has no words, or has media that do not
    match its marks.
    """
    if not isinstance(values, Mapping):
        raise BadData(
            "not an example", f"{where}: found {type(values).__name__}; expected an object"
        )
    images, videos = _media(values, where, media_root)
    try:
        if values.get("text") is not None:
            text = _string(values, "text")
        else:
            messages = _messages(values, len(images), len(videos))
            if not images and not videos:
                images, videos = _media_inside(messages, where, media_root)
            text = text_from_messages(messages)
        text.encode()  # JSON can spell half a character, which no tokenizer takes
        task_type = _decoded(values.get("task_type"))
    except UnicodeError as error:
        raise BadData("invalid UTF-8", f"{where}: its words are not UTF-8 ({error})") from None
    except BadData:
        raise
    except UserError as error:
        raise BadData("not an example", f"{where}: {error}") from None
    found = answers(text)
    if not text.strip() or (found and not any(answer.strip() for answer in found)):
        raise BadData("empty text", f"{where}: has no words to learn; expected an answer")
    try:
        check_media(text, len(images), len(videos), where)
    except UserError as error:
        raise BadData("media marks", str(error)) from None
    return {
        "text": text,
        "images": images,
        "videos": videos,
        "task_type": task_type if isinstance(task_type, str) else "",
        "where": where,
    }


def record_from_json(data: bytes, where: str, media_root: Path) -> Record:
    """The record of an example that is stored as a JSON object in UTF-8.

    Raises BadData as `record_from` does, and where the bytes are no such object.
    """
    try:
        values = json.loads(data.decode())
    except UnicodeDecodeError as error:
        raise BadData("invalid UTF-8", f"{where}: not UTF-8 ({error})") from None
    except (ValueError, RecursionError) as error:
        why = f"{error.msg}: {error.pos}" if isinstance(error, json.JSONDecodeError) else error
        raise BadData("malformed record", f"{where}: expected a JSON object ({why})") from None
    return record_from(values, where, media_root)


def _media(
    values: Mapping[str, Any], where: str, media_root: Path
) -> tuple[list[Medium], list[Video]]:
    """What lies beside the words of an example."""
    images: list[Medium] = []
    videos: list[Video] = []
    for key in ("image", "images"):
        images += images_from(values.get(key), where, media_root)
    for key in ("video", "videos"):
        videos += videos_from(values.get(key), where, media_root)
    return images, videos


def _messages(values: Mapping[str, Any], num_images: int, num_videos: int) -> list[Any]:
    """OpenAI-style messages of every form but the original's."""
    for key in ("conversations", "messages"):
        if values.get(key) is not None:
            return [_message(turn) for turn in _rows(values[key], key)]
    media = [{"type": "image"}] * num_images + [{"type": "video"}] * num_videos
    if values.get("question") is not None and values.get("answer") is not None:
        question = {"type": "text", "text": _string(values, "question")}
        return _one_turn([*media, question], _string(values, "answer"))
    if values.get("caption") is not None and media:
        return _one_turn(media, _string(values, "caption"))
    raise UserError(
        f"has {', '.join(map(repr, list(values)[:8])) or 'no keys'}; expected text, conversations, "
        "messages, question and answer, or caption and image"
    )


def _one_turn(question: list[dict[str, str]], answer: str) -> list[dict[str, Any]]:
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


def _message(turn: Any) -> Any:
    """A turn of LLaVA's or OpenAI's as a message; what is neither is left to be refused."""
    if not isinstance(turn, Mapping):
        return turn
    role = _decoded(_first(turn, "from", "role"))
    role = _ROLES.get(role, role) if isinstance(role, str) else role
    content = _decoded(_first(turn, "value", "content"))
    if isinstance(content, str):
        if role == "user" and "value" in turn:
            pieces = _LLAVA_MARKS.split(content)
            content = [{"type": _LLAVA_MEDIA.get(piece, "text"), "text": piece} for piece in pieces]
    elif content is not None:
        content = [_part(part) for part in _rows(content, "content")]
    return {"role": role, "content": content}


def _part(part: Any) -> Any:
    if not isinstance(part, Mapping):
        return part
    words = {key: _decoded(part[key]) for key in ("type", "text") if key in part}
    return {**part, **words}


def _media_inside(
    messages: list[Any], where: str, media_root: Path
) -> tuple[list[Medium], list[Video]]:
    """What lies in the parts of messages: {"type": "image_url", "image_url": {"url": ...}}."""
    images: list[Medium] = []
    videos: list[Video] = []
    contents = [message["content"] for message in messages if isinstance(message, dict)]
    for part in (part for content in contents if isinstance(content, list) for part in content):
        kind = part.get("type") if isinstance(part, Mapping) else None
        if kind not in ("image", "image_url", "video", "video_url"):
            continue
        medium = part.get(kind)
        if isinstance(medium, Mapping) and "url" in medium:
            medium = medium["url"]
        if medium is None:
            continue
        if kind.startswith("image"):
            images += images_from([medium], where, media_root)
        else:  # one video, also where it is a list of frames
            videos += videos_from([medium], where, media_root)
    return images, videos


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


def _first(values: Mapping[str, Any], *keys: str) -> Any:
    """The value of the first key that has one."""
    return next((values[key] for key in keys if values.get(key) is not None), None)


def _string(values: Mapping[str, Any], key: str) -> str:
    text = _decoded(values[key])
    if not isinstance(text, str):
        raise UserError(f'"{key}" holds {type(text).__name__}; expected a text')
    return text


def _decoded(value: Any) -> Any:
    """Words that a file gives as bytes, as text; anything else as it is."""
    return value.decode() if isinstance(value, bytes) else value
