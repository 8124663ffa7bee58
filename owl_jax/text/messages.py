"""Writes OpenAI-style messages as text in mPLUG-Owl's format (text/conversation.py)."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from owl_jax.errors import UserError, shown
from owl_jax.text.turns import IMAGE_TOKEN, SYSTEM, VIDEO_TOKEN, with_margins, without_margins

_MEDIA = re.compile(r"(<image>|<\|video\|>)")
_FORGED_MARK = re.compile(r"\n(?=(?:Human|AI):)")
_PART_MARKS = {
    "image": IMAGE_TOKEN,
    "image_url": IMAGE_TOKEN,
    "video": VIDEO_TOKEN,
    "video_url": VIDEO_TOKEN,
}
_SPEAKERS = {"user": "Human", "assistant": "AI"}


def prompt_from_messages(messages: str | Sequence[Mapping[str, Any]], margins: bool = False) -> str:
    """The prompt for OpenAI-style messages in mPLUG-Owl's format, ending with "\\nAI: ".

    messages: a list of {"role": "system" | "user" | "assistant", "content": text or parts}; a part
    is {"type": "text", "text": ...} or has one of the types "image", "image_url", "video" and
    "video_url". A medium gets a line of its own, as in the training data; the user's text may also
    contain the marks `<image>` and `<|video|>`. A system message must come first; it replaces
    SYSTEM. A string must be text in mPLUG-Owl's format and is returned unchanged.

    A message's text cannot open a turn: any line after its first that starts with "Human:" or
    "AI:" gets a leading space, and a space breaks up media marks outside the user's messages.

    margins: mark the white space at both ends of each message (text/turns.py, `with_margins`),
      instead of leaving it out. text/conversation.py takes such text: a model's own chat template
      sees the white space, the built-in formats leave it out. Between parts it is always left out.

    Raises UserError for an empty conversation, an unknown role or type of part, a system message
    that is not the first, a message without content, media outside the user's messages, or a last
    message that is not the user's.
    """
    if isinstance(messages, str):
        if not messages.strip():
            raise UserError("the conversation is empty; expected at least one question")
        return messages
    text, roles = _render(messages, margins)
    if roles[-1] != "user":
        raise UserError(f"the last message is the {roles[-1]}'s; expected a question from the user")
    return f"{text}\nAI: "


def text_from_messages(messages: Sequence[Mapping[str, Any]], margins: bool = False) -> str:
    """The training text of a finished conversation, given as OpenAI-style messages.

    Messages, text and margins are as in `prompt_from_messages`. An unanswered question at the end
    is kept, but not trained on.

    Raises UserError as `prompt_from_messages` does, and if no message is the assistant's.
    """
    text, roles = _render(messages, margins)
    if "assistant" not in roles:
        raise UserError("no message is the assistant's; expected at least one answer")
    return text


def _render(messages: Sequence[Mapping[str, Any]], margins: bool) -> tuple[str, list[str]]:
    """The text of messages, without a final "AI: ", and the role of each."""
    if not isinstance(messages, list | tuple) or not all(isinstance(m, Mapping) for m in messages):
        raise UserError(
            f"messages is {type(messages).__name__}; expected a prompt text, or a list of "
            '{"role": ..., "content": ...}'
        )
    if not messages:
        raise UserError("the conversation is empty; expected at least one message from the user")
    lines = [SYSTEM]
    roles = [str(message.get("role")) for message in messages]
    for number, (role, message) in enumerate(zip(roles, messages, strict=True), start=1):
        contents = _contents(message, f"message {number} ({role})", margins)
        if role == "system" and number == 1:
            # Its first line begins the whole text, so it could open a turn too.
            lines = [_FORGED_MARK.sub("\n ", f"\n{contents[0]}")[1:]]
        elif role == "system":
            raise UserError(f"message {number} has the role system; only the first message may")
        elif role in _SPEAKERS:
            lines += [f"\n{_SPEAKERS[role]}: {content}" for content in contents]
        else:
            raise UserError(
                f"message {number} has the role {shown(role)}; expected system, user or assistant"
            )
    return "".join(lines), roles


def _contents(message: Mapping[str, Any], where: str, margins: bool) -> list[str]:
    """A user's texts and marks, each to become a turn; for other roles, one text."""
    content = message.get("content")
    is_user = message.get("role") == "user"
    parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
    if not isinstance(parts, Sequence) or not all(isinstance(part, Mapping) for part in parts):
        raise UserError(
            f"{where} has the content {shown(content)}; expected a text or a list of parts"
        )
    contents = []
    for number, part in enumerate(parts, start=1):
        kind = str(part.get("type"))
        if kind == "text" and isinstance(part.get("text"), str):
            text = part["text"].strip()
            if margins:
                is_last = number == len(parts)
                text = with_margins(part["text"], before=number == 1, after=is_last)
            contents.append(text)
        elif kind in _PART_MARKS and is_user:
            contents.append(_PART_MARKS[kind])
        elif kind in _PART_MARKS:
            raise UserError(f"{where} has a part of type {kind}; only the user's messages may")
        else:
            raise UserError(
                f"{where} has a part of type {shown(kind)} that cannot be read; expected "
                '{"type": "text", "text": "..."} or one of ' + ", ".join(_PART_MARKS)
            )
    if is_user:
        contents = [content for content in contents if without_margins(content)]
    elif contents:
        contents = [_MEDIA.sub(_broken, "\n".join(contents))]
    # An earlier answer may be an empty text; a question may not.
    if not contents:
        raise UserError(f"{where} is empty; expected a text, an image or a video")
    return [_FORGED_MARK.sub("\n ", content) for content in contents]


def _broken(mark: re.Match[str]) -> str:
    """A media mark with a space in it: `< image>`."""
    return "< " + mark[0][1:]
