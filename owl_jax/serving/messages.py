"""A request's messages as `Owl.tokenize` takes them, with media as bytes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from owl_jax.serving.media import Media
from owl_jax.serving.protocol import (
    ImagePart,
    MediaUrl,
    Message,
    RefusalPart,
    TextPart,
    VideoPart,
    VideoUrlPart,
)
from owl_jax.text.turns import IMAGE_TOKEN, VIDEO_TOKEN


def owl_messages(messages: Sequence[Message], media: Media) -> list[dict[str, Any]]:
    """The messages in the form of `Owl.tokenize`. Raises ApiError for media that are refused.

    System and developer messages before all others are one message. A media mark in a text is only
    text here: a space breaks it up.
    """
    found: list[dict[str, Any]] = []
    for number, message in enumerate(messages):
        role = "system" if message.role == "developer" else message.role
        content = _content(message, f"messages[{number}].content", media)
        if role == "system" and found and all(each["role"] == "system" for each in found):
            found[0]["content"] += content
        else:
            found.append({"role": role, "content": content})
    return found


def num_characters(messages: Sequence[Message]) -> int:
    """The length of all texts."""
    contents = [message.content or "" for message in messages]
    texts = [content for content in contents if isinstance(content, str)]
    parts = [part for content in contents if isinstance(content, list) for part in content]
    texts += [part.text for part in parts if isinstance(part, TextPart)]
    return sum(map(len, texts))


def _content(message: Message, param: str, media: Media) -> list[dict[str, Any]]:
    if message.content is None or isinstance(message.content, str):
        text = message.content or ""
        return [_text(text)]
    parts = []
    for number, part in enumerate(message.content):
        where = f"{param}[{number}]"
        match part:
            case TextPart(text=text) | RefusalPart(refusal=text):
                parts.append(_text(text))
            case ImagePart(image_url=url):
                data = media.picture(_url(url), f"{where}.image_url")
                parts.append({"type": "image", "image": data})
            case VideoUrlPart(video_url=url):
                parts.append(
                    {"type": "video", "video": media.clip(_url(url), f"{where}.video_url")}
                )
            case VideoPart(video=source):
                parts.append({"type": "video", "video": media.clip(source, f"{where}.video")})
    return parts


def _url(url: MediaUrl | str) -> str:
    return url if isinstance(url, str) else url.url


def _text(text: str) -> dict[str, Any]:
    for mark in (IMAGE_TOKEN, VIDEO_TOKEN):
        text = text.replace(mark, f"< {mark[1:]}")
    return {"type": "text", "text": text}
