"""Converts one example, from any file and in any known form, to a Record.

    mPLUG-Owl's      text: "...\\nHuman: <image>\\nHuman: What?\\nAI: An owl.", image: ["a.jpg"]
    other forms      sources/text_forms.py
    media            sources/media_keys.py: which keys; sources/media_values.py: in which forms

mPLUG-Owl's form has precedence. A key whose value is None counts as missing.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from owl_jax.data.sources.media_keys import FoundMedia, check_unread, find_media
from owl_jax.data.sources.media_values import images_from, videos_from
from owl_jax.data.sources.record import Medium, Record, Video
from owl_jax.data.sources.text_forms import (
    FREE_TEXT_KEYS,
    TEXT_KEYS,
    check_text,
    is_caption,
    messages_of,
    string,
)
from owl_jax.data.sources.turns import decoded
from owl_jax.errors import BadData, UserError
from owl_jax.files import each_key_once
from owl_jax.text.conversation import (
    IMAGE_TOKEN,
    VIDEO_TOKEN,
    answers,
    check_media,
    count_media,
)
from owl_jax.text.messages import text_from_messages

# Keys of the medium in a content part: OpenAI's, transformers', Anthropic's.
_PART_KEYS = ("image", "image_url", "video", "video_url", "url", "path", "file", "data", "base64")


def record_from(values: Mapping[str, Any], where: str, media_root: Path) -> Record:
    """The record of one example.

    Args:
      values: the example in one of the forms above.
      where: "FILE:LINE" or the like, for messages.
      media_root: base of relative media paths.

    Raises BadData if the form is unknown, the text is empty, or the media do not match the
    placeholders in the text.
    """
    if not isinstance(values, Mapping):
        raise BadData(
            "not an example", f"{where}: found {type(values).__name__}; expected an object"
        )
    found = find_media(values, where, media_root, TEXT_KEYS)
    try:
        text, images, videos = _text_and_media(values, found, where, media_root)
        text.encode()  # JSON can contain lone surrogates, which tokenizers refuse
        task_type = decoded(values.get("task_type"))
    except UnicodeError as error:
        raise BadData("invalid UTF-8", f"{where}: its text is not UTF-8 ({error})") from None
    except BadData:
        raise
    except UserError as error:
        check_unread(found, values, where)
        raise BadData("not an example", f"{where}: {error}") from None
    if not images and not videos:
        check_unread(found, values, where, TEXT_KEYS, FREE_TEXT_KEYS)
        try:
            check_text(text)
        except UserError as error:
            raise BadData("unread medium", f"{where}: {error}") from None
    found_answers = answers(text)
    if not text.strip() or (found_answers and not any(map(str.strip, found_answers))):
        raise BadData("empty text", f"{where}: has no text to learn; expected an answer")
    try:
        check_media(text, len(images), len(videos), where)
    except UserError as error:
        raise BadData("media marks", str(error)) from None
    record: Record = {
        "text": text,
        "images": images,
        "videos": videos,
        "task_type": task_type if isinstance(task_type, str) else "",
        "where": where,
    }
    if found.unread:
        record["unread"] = tuple(found.unread)
    return record


def record_from_json(data: bytes, where: str, media_root: Path) -> Record:
    """The record of an example stored as a JSON object in UTF-8.

    Raises BadData as `record_from` does, and for bytes that are not such an object.
    """
    try:
        values = json.loads(data.decode(), object_pairs_hook=each_key_once)
    except UnicodeDecodeError as error:
        raise BadData("invalid UTF-8", f"{where}: not UTF-8 ({error})") from None
    except (ValueError, RecursionError) as error:
        why = f"{error.msg}: {error.pos}" if isinstance(error, json.JSONDecodeError) else error
        raise BadData("malformed record", f"{where}: expected a JSON object ({why})") from None
    return record_from(values, where, media_root)


def _text_and_media(
    values: Mapping[str, Any], found: FoundMedia, where: str, media_root: Path
) -> tuple[str, list[Medium], list[Video]]:
    """The text in mPLUG-Owl's format, and the media of its placeholders."""
    images, videos = found.images, found.videos
    if values.get("text") is not None:
        text = string(values, "text")
        if not ((images or videos) and is_caption(text)):
            return _with_video_marks(text, images, videos), images, videos
    messages = messages_of(values, len(images), len(videos))
    if not images and not videos:
        images, videos = _media_inside(messages, where, media_root)
    text = text_from_messages(messages, margins=True)
    return _with_video_marks(text, images, videos), images, videos


def _with_video_marks(text: str, images: list[Medium], videos: list[Video]) -> str:
    """The text with mPLUG-Owl's placeholders: LLaVA-NeXT writes <image> for a video."""
    if videos and not images and count_media(text) == (len(videos), 0):
        return text.replace(IMAGE_TOKEN, VIDEO_TOKEN)
    return text


def _media_inside(
    messages: list[Any], where: str, media_root: Path
) -> tuple[list[Medium], list[Video]]:
    """Media in the parts of messages: {"type": "image_url", "image_url": {"url": ...}}."""
    images: list[Medium] = []
    videos: list[Video] = []
    contents = [message["content"] for message in messages if isinstance(message, dict)]
    for part in (part for content in contents if isinstance(content, list) for part in content):
        kind = part.get("type") if isinstance(part, Mapping) else None
        if kind not in ("image", "image_url", "video", "video_url"):
            continue
        inner = part["source"] if isinstance(part.get("source"), Mapping) else part
        medium = next((inner[key] for key in _PART_KEYS if inner.get(key) is not None), None)
        if isinstance(medium, Mapping) and "url" in medium:
            medium = medium["url"]
        if medium is None:
            continue
        if kind.startswith("image"):
            images += images_from([medium], where, media_root)
        else:  # a list of frames is one video
            videos += videos_from([medium], where, media_root)
    return images, videos
