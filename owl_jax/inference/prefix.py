"""Tokens of which a row of the cache has keys and values, and how many a new prompt shares.

Letters: L tokens.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from owl_jax.errors import UserError
from owl_jax.inference.media_cache import digest
from owl_jax.inference.requests import ChatPrompt
from owl_jax.text.media_index import IMAGE_ID, VIDEO_ID


class Span(NamedTuple):
    """The tokens of one medium: from `start` on, `length` of them; `key` is its digest."""

    start: int
    length: int
    key: bytes
    pixels: np.ndarray


@dataclass(frozen=True, eq=False)
class TokenRun:
    """Tokens with their media and the adapter that computed them.

    ids: int32[L], negative at media. spans: in order.
    """

    ids: np.ndarray
    spans: Sequence[Span] = ()
    adapter: str | None = None

    @staticmethod
    def of(
        prompt: ChatPrompt, num_tokens: Callable[[str, int], int], adapter: str | None
    ) -> TokenRun:
        """The tokens of a prompt. num_tokens: (medium, frames) -> tokens of it (OwlConfig).

        Raises UserError if the ids do not match the media.
        """
        ids = np.asarray(prompt.input_ids, np.int32)
        images, videos = deque(prompt.images), deque(prompt.videos)
        spans, at = [], 0
        while at < len(ids):
            if ids[at] >= 0:
                at += 1
                continue
            is_image = ids[at] == IMAGE_ID
            queue = images if is_image else videos
            if not queue:
                raise _mismatch(int(ids[at]))
            pixels = queue.popleft()
            length = num_tokens("image", 1) if is_image else num_tokens("video", len(pixels))
            if (ids[at : at + length] != ids[at]).any() or at + length > len(ids):
                raise _mismatch(int(ids[at]))
            spans.append(Span(at, length, digest(pixels), pixels))
            at += length
        if images or videos:
            raise _mismatch(IMAGE_ID if images else VIDEO_ID)
        return TokenRun(ids, spans, adapter)

    def without_pixels(self) -> TokenRun:
        """The same tokens, of which no more have to be computed."""
        none = np.zeros(0, np.uint8)
        return replace(self, spans=[span._replace(pixels=none) for span in self.spans])

    def shared(self, other: TokenRun) -> int:
        """How many tokens both have at the beginning. A medium counts only if its pixels are the
        same."""
        if self.adapter != other.adapter:
            return 0
        length = min(len(self.ids), len(other.ids))
        differ = np.flatnonzero(self.ids[:length] != other.ids[:length])
        same = int(differ[0]) if len(differ) else length
        theirs = {span.start: span.key for span in other.spans}
        for span in self.spans:
            if span.start < same and theirs.get(span.start) != span.key:
                return span.start
        return same


def _mismatch(media_id: int) -> UserError:
    noun = "image" if media_id == IMAGE_ID else "video"
    return UserError(f"the tokens of id {media_id} in input_ids do not match the {noun}s given")
