"""From rows of token ids to the index that places media vectors in them.

Letters: B rows, L positions.
"""

from __future__ import annotations

import numpy as np

from owl_jax.text.conversation import IMAGE_ID, VIDEO_ID

TEXT = -1  # media_index of a position that holds a word


def index_media(
    input_ids: np.ndarray, media_length: int, image_slots: int, video_slots: int
) -> np.ndarray:
    """media_index int32[B, L] of ids that carry -1 (image) and -2 (video) at media positions.

    The n-th image of a row takes slot n, the m-th video slot image_slots + m. Raises ValueError if
    a row has a broken span or more media than slots (callers check what users give before).
    """
    index = np.full(input_ids.shape, TEXT, np.int32)
    for media_id, first_slot, slots in (
        (IMAGE_ID, 0, image_slots),
        (VIDEO_ID, image_slots, video_slots),
    ):
        for row, ids in enumerate(input_ids):
            (found,) = np.nonzero(ids == media_id)
            if len(found) % media_length or len(found) > slots * media_length:
                raise ValueError(
                    f"row {row} has {len(found)} positions of media id {media_id}: expected a "
                    f"multiple of {media_length}, at most {slots * media_length}"
                )
            index[row, found] = first_slot * media_length + np.arange(len(found))
    return index
