"""Numbering media vectors, with literal arrays."""

import numpy as np
import pytest

from owl_jax.text.media_index import MediaLengths, index_media, media_slots

LENGTHS = MediaLengths(image=2, video=3)
IDS = np.array([[7, -2, -2, -2, 8, -1, -1, 9, -1, -1], [-2, -2, -2, 5, -2, -2, -2, -1, -1, 6]])
# Two image slots take the vectors 0 to 3, two video slots 4 to 9.
INDEX = [[-1, 4, 5, 6, -1, 0, 1, -1, 2, 3], [4, 5, 6, -1, 7, 8, 9, 0, 1, -1]]
SLOTS = [[-1, 2, 2, 2, -1, 0, 0, -1, 1, 1], [2, 2, 2, -1, 3, 3, 3, 0, 0, -1]]


def test_images_and_videos_of_different_lengths_are_numbered():
    np.testing.assert_array_equal(index_media(IDS, LENGTHS, 2, 2), INDEX)


def test_each_token_has_its_slot():
    np.testing.assert_array_equal(media_slots(np.array(INDEX), LENGTHS, 2), SLOTS)


def test_a_model_without_media():
    ids, without = np.array([[5, 6, 7]]), MediaLengths(0, 0)
    index = index_media(ids, without, 0, 0)
    with np.errstate(all="raise"):
        np.testing.assert_array_equal(media_slots(index, without, 0), [[-1, -1, -1]])


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ([[-1, -1, -1]], "sequence 0 has 3 tokens of media id -1; expected a multiple of 2, at mo"),
        ([[1, 1], [-2, -2]], "sequence 1 has 2 tokens of media id -2; expected a multiple of 3"),
        ([[-1] * 6], "sequence 0 has 6 tokens of media id -1; expected a multiple of 2, at most 4"),
    ],
)
def test_incomplete_or_too_many_media_raise(ids, message):
    with pytest.raises(ValueError, match=message):
        index_media(np.array(ids), LENGTHS, 2, 2)
