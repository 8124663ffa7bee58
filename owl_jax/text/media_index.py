"""Media in a sequence: their ids, how many tokens each takes, and which vector a token gets.

Letters: B sequences, L tokens.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

IMAGE_ID = -1  # input id of an image's tokens
VIDEO_ID = -2  # input id of a video's tokens
TEXT = -1  # media_index of a text token


class MediaLengths(NamedTuple):
    """How many tokens an image and a video take in a sequence."""

    image: int
    video: int

    def of(self, media_id: int) -> int:
        """The length of the medium whose input id is IMAGE_ID or VIDEO_ID."""
        return self.image if media_id == IMAGE_ID else self.video


def index_media(
    input_ids: np.ndarray, lengths: MediaLengths, image_slots: int, video_slots: int
) -> np.ndarray:
    """media_index int32[B, L] for input_ids, which are -1 at image tokens, -2 at video tokens.

    A sequence's vectors are numbered through its image slots, then through its video slots. The
    n-th image takes slot n. A model without media has lengths of 0. Raises ValueError for an
    incomplete medium or more media than slots; callers check user input first.
    """
    index = np.full(input_ids.shape, TEXT, np.int32)
    first = 0
    for media_id, length, slots in (
        (IMAGE_ID, lengths.image, image_slots),
        (VIDEO_ID, lengths.video, video_slots),
    ):
        for sequence, ids in enumerate(input_ids):
            (found,) = np.nonzero(ids == media_id)
            if len(found) % max(length, 1) or len(found) > slots * length:
                raise ValueError(
                    f"sequence {sequence} has {len(found)} tokens of media id {media_id}; expected "
                    f"a multiple of {length}, at most {slots * length}"
                )
            index[sequence, found] = first + np.arange(len(found))
        first += slots * length
    return index


def media_slots(media_index: np.ndarray, lengths: MediaLengths, image_slots: int) -> np.ndarray:
    """The slot of each token, images first, then videos; TEXT for text. Same shape as the index.

    Lengths of 0 are those of a model without media.
    """
    first_video = image_slots * lengths.image
    return np.where(
        media_index < first_video,
        np.where(media_index < 0, TEXT, media_index // max(lengths.image, 1)),
        image_slots + (media_index - first_video) // max(lengths.video, 1),
    )
