"""Rows of a batch, written out: a picture takes two positions (-1 -1), a video two (-2 -2)."""

import numpy as np
import pytest

from owl_jax.data.batch import Batch, Example, SequenceShape, collate
from owl_jax.text.media_index import MediaLengths

SHAPE = SequenceShape(
    length=7, media=MediaLengths(2, 2), image_size=2, image_slots=2, video_slots=1, frames=2
)
WORDS = SequenceShape(length=4, media=MediaLengths(2, 2), image_size=2)


def example(ids, supervised, images=(), videos=(), shape=SHAPE):
    """images, videos: one grey value for each picture or video."""
    S, T = shape.image_size, shape.frames
    pictures, clips = np.zeros((len(images), S, S, 3)), np.zeros((len(videos), T, S, S, 3))
    for media, values in ((pictures, images), (clips, videos)):
        for item, value in zip(media, values, strict=True):
            item[:] = value
    return Example(
        np.array(ids, np.int32),
        np.isin(np.arange(len(ids)), supervised),
        pictures.astype(np.uint8),
        clips.astype(np.uint8),
    )


@pytest.fixture
def batch():
    return collate(
        [
            [example([1, -1, -1, 5, 6, 9, 2], [5, 6], images=[10])],
            [example([1, 7, 8, 2], [2, 3])],
            [example([1, -2, -2, -1, -1, 4, 9, 2], [6, 7], images=[20], videos=[30])],
        ],
        SHAPE,
    )


def test_targets_are_the_inputs_shifted_by_one(batch):
    np.testing.assert_array_equal(
        batch.input_ids,
        [[1, 0, 0, 5, 6, 9, 0], [1, 7, 8, 0, 0, 0, 0], [1, 0, 0, 0, 0, 4, 9]],
    )
    np.testing.assert_array_equal(
        batch.targets,
        [[0, 0, 5, 6, 9, 2, 0], [7, 8, 2, 0, 0, 0, 0], [0, 0, 0, 0, 4, 9, 2]],
    )


def test_loss_mask_stands_over_the_prediction(batch):
    np.testing.assert_array_equal(
        batch.loss_mask,
        [[0, 0, 0, 0, 1, 1, 0], [0, 1, 1, 0, 0, 0, 0], [0, 0, 0, 0, 0, 1, 1]],
    )
    np.testing.assert_array_equal(batch.targets[batch.loss_mask == 1], [9, 2, 8, 2, 9, 2])


def test_segments_end_with_the_last_prediction(batch):
    np.testing.assert_array_equal(
        batch.segment_ids,
        [[1, 1, 1, 1, 1, 1, 0], [1, 1, 1, 0, 0, 0, 0], [1, 1, 1, 1, 1, 1, 1]],
    )
    np.testing.assert_array_equal(
        batch.positions, [[0, 1, 2, 3, 4, 5, 0], [0, 1, 2, 0, 0, 0, 0], range(7)]
    )


def test_media_index_counts_image_slots_and_then_video_slots(batch):
    np.testing.assert_array_equal(
        batch.media_index,
        [
            [-1, 0, 1, -1, -1, -1, -1],
            [-1, -1, -1, -1, -1, -1, -1],
            [-1, 4, 5, 0, 1, -1, -1],
        ],
    )


def test_media_lie_in_their_slots_and_unused_slots_are_black(batch):
    np.testing.assert_array_equal(batch.images[:, :, 0, 0, 0], [[10, 0], [0, 0], [20, 0]])
    np.testing.assert_array_equal(batch.videos[:, :, :, 1, 1, 2], [[[0, 0]], [[0, 0]], [[30, 30]]])


def test_two_pictures_of_a_row_keep_their_order():
    row = collate([[example([1, -1, -1, -1, -1, 3, 2], [5], images=[1, 2])]], SHAPE)
    np.testing.assert_array_equal(row.media_index, [[-1, 0, 1, 2, 3, -1, -1]])
    np.testing.assert_array_equal(row.images[0, :, 0, 0, 0], [1, 2])


def test_shapes_and_types(batch):
    ids, floats, bytes_ = np.dtype(np.int32), np.dtype(np.float32), np.dtype(np.uint8)
    assert {name: (a.shape, a.dtype) for name, a in vars(batch).items()} == {
        "input_ids": ((3, 7), ids),
        "targets": ((3, 7), ids),
        "loss_mask": ((3, 7), floats),
        "positions": ((3, 7), ids),
        "segment_ids": ((3, 7), ids),
        "media_index": ((3, 7), ids),
        "images": ((3, 2, 2, 2, 3), bytes_),
        "videos": ((3, 1, 2, 2, 2, 3), bytes_),
    }


def test_words_alone_need_no_slots():
    batch = collate([[example([1, 3, 2], [1, 2], shape=WORDS)]], WORDS)
    assert isinstance(batch, Batch)
    assert batch.images.shape == (1, 0, 2, 2, 3) and batch.videos.shape == (1, 0, 0, 2, 2, 3)
    np.testing.assert_array_equal(batch.input_ids, [[1, 3, 0, 0]])


def test_an_example_that_fills_its_row_loses_only_its_last_input():
    batch = collate([[example([1, 3, 4, 5, 2], [3, 4], shape=WORDS)]], WORDS)
    np.testing.assert_array_equal(batch.input_ids, [[1, 3, 4, 5]])
    np.testing.assert_array_equal(batch.targets, [[3, 4, 5, 2]])
    np.testing.assert_array_equal(batch.segment_ids, [[1, 1, 1, 1]])


@pytest.mark.parametrize(
    "misfit",
    [
        example([1, 3, 4, 5, 6, 2], [5], shape=WORDS),
        example([1, -1, -1, 2], [3], images=[1], shape=WORDS),
        example([1, -1, -1, 2], [3], shape=WORDS),
        example([1, -2, -2, 2], [3], shape=WORDS),
    ],
    ids=["too long", "picture without slot", "span without picture", "video without slot"],
)
def test_what_does_not_fit_is_refused(misfit):
    with pytest.raises(ValueError):
        collate([[example([1, 3, 2], [1], shape=WORDS)], [misfit]], WORDS)


def test_too_long_says_how_long():
    with pytest.raises(ValueError, match="5 tokens do not fit in a sequence of 4"):
        collate([[example([1, 3, 4, 5, 6, 2], [5], shape=WORDS)]], WORDS)


def test_more_pictures_than_slots_are_refused():
    with pytest.raises(ValueError):
        collate([[example([1, -1, -1, 3, 2], [3], images=[1, 2, 3])]], SHAPE)


def test_a_broken_span_is_refused():
    with pytest.raises(ValueError, match="sequence 0 has 1 tokens of media id -1"):
        collate([[example([1, -1, 3, 2], [2], images=[1])]], SHAPE)


@pytest.fixture
def packed():
    """Three conversations in a row of nine positions, and a row that none is left of."""
    shape = SequenceShape(
        length=9, media=MediaLengths(2, 2), image_size=2, image_slots=2, video_slots=1, frames=2
    )
    row = [
        example([1, -1, -1, 5, 2], [3, 4], images=[10]),
        example([1, 7, 2], [2]),
        example([1, -1, -1, 2], [3], images=[20]),
    ]
    return collate([row, []], shape)


def test_conversations_of_a_row_are_kept_apart(packed):
    np.testing.assert_array_equal(packed.input_ids[0], [1, 0, 0, 5, 1, 7, 1, 0, 0])
    np.testing.assert_array_equal(packed.targets[0], [0, 0, 5, 2, 7, 2, 0, 0, 2])
    np.testing.assert_array_equal(packed.loss_mask[0], [0, 0, 1, 1, 0, 1, 0, 0, 1])
    np.testing.assert_array_equal(packed.segment_ids[0], [1, 1, 1, 1, 2, 2, 3, 3, 3])
    np.testing.assert_array_equal(packed.positions[0], [0, 1, 2, 3, 0, 1, 0, 1, 2])


def test_each_conversation_of_a_row_has_its_own_pictures(packed):
    np.testing.assert_array_equal(packed.media_index[0], [-1, 0, 1, -1, -1, -1, -1, 2, 3])
    np.testing.assert_array_equal(packed.images[0, :, 0, 0, 0], [10, 20])


def test_an_empty_row_is_all_padding(packed):
    for array in (packed.input_ids, packed.loss_mask, packed.segment_ids, packed.images):
        assert not array[1].any()
    assert (packed.media_index[1] == -1).all()


def test_a_row_too_many_conversations_is_refused():
    row = [example([1, 3, 2], [1], shape=WORDS)] * 3
    with pytest.raises(ValueError, match="6 tokens do not fit in a sequence of 4"):
        collate([row], WORDS)
