"""Tokenised conversations whose media are not decoded yet.

They hold everything that packing needs, so packing never touches pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from owl_jax.data.batch import SequenceShape
from owl_jax.data.drops import Dropped
from owl_jax.data.sources.record import Medium, Record, Video
from owl_jax.errors import UserError
from owl_jax.text.conversation import check_media, longest_text, tokenize_conversation
from owl_jax.text.formats import OWL
from owl_jax.text.formats.format import ConversationFormat
from owl_jax.text.spatial_text import mentions_place
from owl_jax.text.tokenizer import Tokenizer


@dataclass(frozen=True, eq=False)
class Conversation:
    """One tokenised conversation.

    number: its index in the process's mixture, over all epochs; seeds its augmentation.
    input_ids: int32[n], media tokens negative (text/conversation.py).
    loss_mask: bool[n], True on answer tokens and their end-of-sequence tokens.
    images, videos: encoded media whose tokens are in input_ids.
    keep_places: whether its text may be false for a cropped or mirrored image
      (text/spatial_text.py).
    unread: keys of its record that look like media but are not read.
    """

    number: int
    input_ids: np.ndarray
    loss_mask: np.ndarray
    images: Sequence[Medium]
    videos: Sequence[Video]
    keep_places: bool
    where: str
    unread: Sequence[str] = ()

    @property
    def length(self) -> int:
        """Tokens that it takes in a sequence: all but the last, which is only a target."""
        return len(self.input_ids) - 1


@dataclass(frozen=True)
class Tokenize:
    """Turns a record into a Conversation that fits in a sequence, or into a Dropped.

    most_characters: longer texts are dropped; None derives the limit from the sequence length.
    format: the conversation format of the model.
    """

    tokenizer: Tokenizer
    shape: SequenceShape
    most_characters: int | None = None
    format: ConversationFormat = OWL

    def __call__(self, number: int, record: Record | Dropped) -> Conversation | Dropped:
        if isinstance(record, Dropped):
            return record
        shape, where, text = self.shape, record["where"], record["text"]
        images, videos = record["images"], record["videos"]
        most = self.most_characters or longest_text(shape.length)
        if len(text) > most:
            return Dropped(
                where,
                "text too long",
                f"{where}: {len(text):,} characters of text; at most {most:,} are read for a "
                f"sequence of {shape.length} tokens",
            )
        try:
            check_media(text, len(images), len(videos), where)
        except UserError as error:
            return Dropped(where, "media marks", str(error))
        try:
            tokens = tokenize_conversation(
                text, self.tokenizer, shape.media, shape.length, self.format
            )
        except UserError as error:
            return Dropped(where, "conversation format", f"{where}: {error}")
        if not tokens.loss_mask[1:].any():
            return Dropped(where, "no answer", f"{where}: no answer within {shape.length} tokens")
        if tokens.num_images > shape.image_slots or tokens.num_videos > shape.video_slots:
            return Dropped(
                where,
                "too many media",
                f"{where}: {tokens.num_images} images and {tokens.num_videos} videos, room for "
                f"{shape.image_slots} and {shape.video_slots} (data.image_slots, data.video_slots)",
            )
        return Conversation(
            number,
            tokens.input_ids,
            tokens.loss_mask,
            images[: tokens.num_images],
            videos[: tokens.num_videos],
            mentions_place(text),
            where,
            record.get("unread", ()),
        )
