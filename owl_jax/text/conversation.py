"""Converts conversations to token ids, for training and for prompts.

A conversation is text in mPLUG-Owl's format (text/messages.py makes it from messages):

    The following is a conversation between a curious human and AI assistant. ...
    Human: <image>
    Human: What is it?
    AI: An owl.

Its marks are `<image>` and `<|video|>` anywhere, "\\nHuman: ", and "AI: " at the start of a line.
A medium becomes a run of the id -1 (image) or -2 (video), one per connector token
(OwlConfig.media_lengths). Training text is split at all marks and each piece is tokenised
separately; prompts are split only at media. The original does the same (pipeline/data_utils,
processing_mplug_owl.py).

For a model with another conversation format (text/formats/), this text is parsed into turns
(text/turns.py), which the format writes in its own way. The result is split at media and at the
start and end of each answer; a prompt is a prefix of the training text. A piece that follows text
is tokenised as its continuation, without a dummy prefix: between media, the ids are those of the
whole text.

White space at the ends of messages is marked in the text. A model's own chat template sees it, as
in transformers; all other formats leave it out.

Letters: n ids.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from owl_jax.errors import UserError
from owl_jax.text.formats import OWL
from owl_jax.text.formats.format import ConversationFormat, Piece
from owl_jax.text.media_index import IMAGE_ID, VIDEO_ID, MediaLengths
from owl_jax.text.tokenizer import Tokenizer
from owl_jax.text.turns import (
    IMAGE_TOKEN,
    MEDIA_IDS,
    VIDEO_TOKEN,
    Turn,
    turns_of,
    with_broken_marks,
    without_margins,
)
from owl_jax.text.turns import SYSTEM as SYSTEM  # docs/data.md imports it from here

# However little is kept, the whole text is tokenised, which takes 50 bytes per character.
_LONGEST_TEXT = 1_000_000
_CHARACTERS_PER_TOKEN = 64  # the longest pieces of common vocabularies; most are under 16

_ANSWER_MARK = "AI: "
_MEDIA = re.compile(r"(<image>|<\|video\|>)")
_MARKS = re.compile(r"(<image>|<\|video\|>|\nHuman: |^AI: )", re.MULTILINE)


@dataclass(frozen=True)
class TokenizedConversation:
    """The ids of one conversation and its loss mask."""

    input_ids: np.ndarray  # int32[n], BOS first if the format has one, media negative
    loss_mask: np.ndarray  # bool[n], True on answer tokens and the token that ends each answer
    num_images: int  # images kept in full: always the first ones
    num_videos: int


_Kind = Literal["prompt", "answer", "end", "media"]
_NEW_LINE = "\n"


class _Piece(NamedTuple):
    """A piece as ids. end: the id that ends an answer if it is truncated."""

    kind: _Kind
    ids: list[int]
    end: int = 0


def longest_text(max_length: int) -> int:
    """The longest conversation, in characters, that is tokenised for `max_length` tokens.

    A million, or 64 per token if that is more. Callers refuse longer text without tokenising it,
    because nearly all of its tokens would be cut off.
    """
    return max(_LONGEST_TEXT, _CHARACTERS_PER_TOKEN * max_length)


def tokenize_conversation(
    text: str,
    tokenizer: Tokenizer,
    lengths: MediaLengths,
    max_length: int,
    format: ConversationFormat = OWL,
) -> TokenizedConversation:
    """Ids and loss mask of a training example, n <= max_length + 1 (inputs and shifted targets).

    text: in mPLUG-Owl's format, whatever the model's format.

    Longer text is truncated as in the original: a truncated answer still ends with EOS, or with the
    end token of `format`. Media are never truncated: the example ends before the first one that
    does not fit. Media at the end are dropped, because the last id is only a target. If not even
    one token of an answer fits, the answer, its EOS and everything after it are dropped, so the
    mask may be all False.

    Raises UserError for max_length < 1, and if the format cannot express the conversation.
    """
    if max_length < 1:
        raise UserError(f"max_length is {max_length}; expected at least 1 token")
    limit = max_length + 1
    if format == OWL:
        pieces: Iterable[_Piece] = _split(text, _MARKS, tokenizer, lengths)
    else:
        pieces = _tokenized(format.pieces(_safe_turns(text, tokenizer, format)), tokenizer, lengths)
    ids = _first_ids(tokenizer, format)
    mask = [False] * len(ids)
    for piece in pieces:
        # Reserve the last position for the answer's EOS.
        room = limit - len(ids) - (piece.kind == "answer")
        if room < 0 or (piece.kind == "media" and len(piece.ids) > room):
            break
        kept = piece.ids[:room]
        ids += kept
        mask += [piece.kind in ("answer", "end")] * len(kept)
        if len(kept) < len(piece.ids):
            if piece.kind == "answer" and kept:
                ids.append(piece.end)
                mask.append(True)
            break
    end = len(ids)
    while end and ids[end - 1] < 0:
        end -= lengths.of(ids[end - 1])
    ids, mask = ids[:end], mask[:end]
    return TokenizedConversation(
        input_ids=np.array(ids, np.int32),
        loss_mask=np.array(mask, bool),
        num_images=ids.count(IMAGE_ID) // max(lengths.image, 1),
        num_videos=ids.count(VIDEO_ID) // max(lengths.video, 1),
    )


def tokenize_prompt(
    text: str,
    tokenizer: Tokenizer,
    lengths: MediaLengths,
    *,
    as_trained: bool = False,
    max_length: int = 0,
    format: ConversationFormat = OWL,
) -> np.ndarray:
    """Ids of a prompt, int32[n]: BOS, then the text, with a run of negative ids for each medium.

    text: in mPLUG-Owl's format, whatever the model's format. In other formats, the prompt is
    written as in training, up to the answer; if `text` ends within an answer, the model continues
    that answer.

    The original splits a prompt only at media, so its ids differ from those in training ("\\nAI: "
    is tokenised together with the question). `as_trained` splits as in training and adds EOS after
    earlier answers: if the prompt ends with "\\nAI: ", `tokenize_conversation` of prompt plus
    answer begins with the same ids. A model trained from scratch has only seen such ids.

    max_length: the model's maximum sequence length, if known; longer prompts are not truncated.

    Raises UserError for a text above `longest_text(max_length)`, before it is tokenised, and if
    the format cannot express the conversation.
    """
    if len(text) > (most := longest_text(max_length)):
        raise UserError(
            f"the conversation has {len(text):,} characters; expected at most {most:,}; shorten it"
        )
    if format == OWL:
        marks = _MARKS if as_trained else _MEDIA
        pieces = list(_split(text, marks, tokenizer, lengths))
        if pieces[-1].kind == "end":  # of the answer to be generated
            pieces.pop()
    else:
        written = format.prompt(_safe_turns(text, tokenizer, format))
        pieces = list(_tokenized(written, tokenizer, lengths))
    ids = _first_ids(tokenizer, format)
    for piece in pieces:
        ids += piece.ids
    return np.array(ids, np.int32)


def answers(text: str) -> list[str]:
    """The answers of a text in mPLUG-Owl's format, one string per turn, without media."""
    found, answer = [], ""
    for kind, part in _parts(text, _MARKS):
        if kind == "answer":
            answer += part
        elif kind == "end":
            found.append(answer)
            answer = ""
    return found


def count_media(text: str) -> tuple[int, int]:
    """The numbers of `<image>` and `<|video|>` marks in a text."""
    return text.count(IMAGE_TOKEN), text.count(VIDEO_TOKEN)


def check_media(text: str, num_images: int, num_videos: int, where: str) -> None:
    """Raises UserError, naming `where`, unless the text has exactly one mark per medium."""
    marked = count_media(text)
    given = (num_images, num_videos)
    for mark, noun, found, expected in zip(
        MEDIA_IDS, ("image", "video"), marked, given, strict=True
    ):
        if found != expected:
            raise UserError(
                f"{where}: the text has {found} {mark}, but {expected} {noun}(s) were given; "
                f"expected one {mark} for each {noun}, in the same order"
            )


def _split(
    text: str, marks: re.Pattern[str], tokenizer: Tokenizer, lengths: MediaLengths
) -> Iterator[_Piece]:
    """The separately tokenised pieces of a conversation, in order, not truncated, without BOS.

    An answer runs from "AI: " to the next turn or the end of the text. It ends with EOS even if
    empty. Media inside it are not trained on; the text around them is.
    """
    for kind, part in _parts(text, marks):
        if kind == "media":
            media_id = MEDIA_IDS[part]
            yield _Piece(kind, [media_id] * lengths.of(media_id))
        else:
            ids = [tokenizer.eos_id] if kind == "end" else tokenizer.encode(part)
            yield _Piece(kind, ids, tokenizer.eos_id)


def _safe_turns(text: str, tokenizer: Tokenizer, format: ConversationFormat) -> list[Turn]:
    turns = turns_of(text, format.keeps_margins)
    return with_broken_marks(turns, format.reserved_by(tokenizer))


def _first_ids(tokenizer: Tokenizer, format: ConversationFormat) -> list[int]:
    bos_id = tokenizer.bos_id
    return [bos_id] if bos_id is not None and format.begins_with_bos(tokenizer) else []


def _tokenized(
    pieces: Sequence[Piece], tokenizer: Tokenizer, lengths: MediaLengths
) -> Iterator[_Piece]:
    """The pieces of a conversation as ids, in order, not truncated, without BOS."""
    ends = [_end_id(piece, tokenizer) for piece in pieces if piece.kind == "end"]
    new_line = tokenizer.encode(_NEW_LINE)
    follows_text = False
    for piece in pieces:
        if piece.kind == "media":
            yield _Piece("media", [piece.medium] * lengths.of(piece.medium))
            follows_text = False
        elif piece.kind == "end":
            yield _Piece("end", [ends.pop(0)])
            follows_text = False
        else:
            ids = tokenizer.encode(_NEW_LINE + piece.text if follows_text else piece.text)
            if follows_text:
                # After a newline, no tokenizer adds a dummy prefix or merges the two texts.
                is_apart = ids[: len(new_line)] == new_line
                ids = ids[len(new_line) :] if is_apart else tokenizer.encode(piece.text)
            yield _Piece(piece.kind, ids, ends[0] if ends else tokenizer.eos_id)
            # After a special token, a tokenizer starts afresh.
            follows_text = bool(ids) and ids[-1] not in tokenizer.special_tokens


def _end_id(piece: Piece, tokenizer: Tokenizer) -> int:
    """The id of an "end" piece."""
    id = tokenizer.token_id(piece.text) if piece.text else None
    return tokenizer.eos_id if id is None else id


def _parts(text: str, marks: re.Pattern[str]) -> Iterator[tuple[_Kind, str]]:
    """The pieces of a conversation as text; an "end" has no text."""
    answering = False
    # `marks` has one group: split returns text at even indices, marks at odd ones.
    for i, part in enumerate(marks.split(without_margins(text))):
        if i % 2 == 0:
            yield "answer" if answering else "prompt", part
        elif part in MEDIA_IDS:
            yield "media", part
        else:
            if answering:
                yield "end", ""
            yield "prompt", part
            answering = part == _ANSWER_MARK
    if answering:
        yield "end", ""
