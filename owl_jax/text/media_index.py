"""media_index: which media vector each token takes, computed from the token ids.

Letters: B sequences, L tokens.
"""

from __future__ import annotations

import numpy as np

from owl_jax.text.conversation import IMAGE_ID, VIDEO_ID

TEXT = -1  # media_index of a text token


def index_media(
    input_ids: np.ndarray, media_length: int, image_slots: int, video_slots: int
) -> np.ndarray:
    """media_index int32[B, L] for ids that are -1 (image) or -2 (video) at media tokens.

    The n-th image of a sequence takes slot n, the m-th video slot image_slots + m. Raises
    ValueError for an incomplete medium or more media than slots; callers check user input first.
    """
    index = np.full(input_ids.shape, TEXT, np.int32)
    for media_id, first_slot, slots in (
        (IMAGE_ID, 0, image_slots),
        (VIDEO_ID, image_slots, video_slots),
    ):
        for sequence, ids in enumerate(input_ids):
            (found,) = np.nonzero(ids == media_id)
            if len(found) % media_length or len(found) > slots * media_length:
                raise ValueError(
                    f"sequence {sequence} has {len(found)} tokens of media id {media_id}; expected "
                    f"a multiple of {media_length}, at most {slots * media_length}"
                )
            index[sequence, found] = first_slot * media_length + np.arange(len(found))
    return index
