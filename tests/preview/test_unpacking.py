"""Sequences unpacked: a picture takes two tokens (-1 -1), a video two (-2 -2)."""

from dataclasses import replace

import numpy as np
import pytest

from owl_jax.data.batch import Example, SequenceShape, collate
from owl_jax.preview.unpacking import Medium, Words, unpack
from owl_jax.text.media_index import MediaLengths

SHAPE = SequenceShape(
    length=16, media=MediaLengths(2, 2), image_size=2, image_slots=3, video_slots=2, frames=2
)


def example(ids, supervised, images=(), videos=()):
    """images, videos: one grey value for each picture or video."""
    S, T = SHAPE.image_size, SHAPE.frames
    return Example(
        np.array(ids, np.int32),
        np.isin(np.arange(len(ids)), supervised),
        np.array([np.full((S, S, 3), v) for v in images], np.uint8).reshape(-1, S, S, 3),
        np.array([np.full((T, S, S, 3), v) for v in videos], np.uint8).reshape(-1, T, S, S, 3),
    )


def described(segment):
    """Its parts as (ids, supervised), and (grey value, kind, slot, tokens)."""
    return [
        (part.ids, part.supervised)
        if isinstance(part, Words)
        else (
            part.pixels.ravel()[0],
            "video" if part.is_video else "image",
            part.slot,
            part.tokens,
        )
        for part in segment.parts
    ]


PICTURED = example([1, 5, -1, -1, 6, 7, 2], [5, 6], images=[10])
TOLD = example([1, 8, 9, 2], [2, 3])
FILMED = example([1, -2, -2, -1, -1, 4, 2], [5, 6], images=[20], videos=[30])


@pytest.fixture
def batch():
    return collate([[PICTURED, TOLD], [FILMED], []], SHAPE)


def test_conversations_are_read_back_as_they_went_in(batch):
    first, second, empty = unpack(batch, SHAPE.media)
    assert [described(segment) for segment in first.segments] == [
        [([1, 5], False), (10, "image", 0, 2), ([6], False), ([7, 2], True)],
        [([1, 8], False), ([9, 2], True)],
    ]
    assert [described(segment) for segment in second.segments] == [
        [([1], False), (30, "video", 0, 2), (20, "image", 0, 2), ([4, 2], True)],
    ]
    assert empty.segments == []


def test_what_they_fill(batch):
    first, second, empty = unpack(batch, SHAPE.media)
    assert [(s.start, s.length, s.supervised) for s in first.segments] == [(0, 6, 2), (6, 3, 2)]
    assert [(s.start, s.length, s.supervised) for s in second.segments] == [(0, 6, 2)]
    assert [row.fill for row in (first, second, empty)] == [9 / 16, 6 / 16, 0]
    assert [(row.images, row.videos) for row in (first, second, empty)] == [(1, 0), (1, 1), (0, 0)]
    assert all(
        (row.length, row.image_slots, row.video_slots) == (16, 3, 2) for row in (first, empty)
    )


def test_slots_go_on_from_conversation_to_conversation():
    pair = example([1, -1, -1, -1, -1, 3, 2], [5, 6], images=[1, 2])
    (row,) = unpack(collate([[PICTURED, pair]], SHAPE), SHAPE.media)
    media = [(m.pixels[0, 0, 0], m.slot, m.tokens) for s in row.segments for m in s.media]
    assert media == [(10, 0, 2), (1, 1, 2), (2, 2, 2)]
    assert row.images == 3


def test_a_video_takes_no_picture_slot():
    filmed = example([1, -2, -2, -2, -2, 4, 2], [5, 6], videos=[30, 40])
    (row,) = unpack(collate([[filmed]], SHAPE), SHAPE.media)
    assert (row.images, row.videos) == (0, 2)
    assert [m.pixels.shape for m in row.segments[0].media] == [(2, 2, 2, 3)] * 2


def test_the_target_is_shown_where_the_model_learns_it_and_the_input_elsewhere(batch):
    targets = batch.targets.copy()
    targets[0, 4] = 77  # taught after 6 in place of 7
    targets[0, 0] = 78  # taught nowhere
    (row, *_) = unpack(replace(batch, targets=targets), SHAPE.media)
    assert described(row.segments[0])[2:] == [([6], False), ([77, 2], True)]
    assert described(row.segments[0])[0] == ([1, 5], False)


def test_a_medium_as_target_does_not_stay_hidden(batch):
    mask = batch.loss_mask.copy()
    mask[0, 1] = 1
    (row, *_) = unpack(replace(batch, loss_mask=mask), SHAPE.media)
    assert described(row.segments[0])[:3] == [
        ([1, 5], False),
        ([0], True),
        (10, "image", 0, 2),
    ]
    assert row.segments[0].supervised == 3


def test_a_gap_between_conversations(batch):
    segments = batch.segment_ids.copy()
    segments[0, :6] = 0
    (row, *_) = unpack(replace(batch, segment_ids=segments), SHAPE.media)
    assert [(s.start, s.length) for s in row.segments] == [(6, 3)]
    assert isinstance(row.segments[0].parts[0], Words) and not row.segments[0].media


def test_a_cut_medium_shows(batch):
    index = batch.media_index.copy()
    index[0, 3] = -1
    (row, *_) = unpack(replace(batch, media_index=index), SHAPE.media)
    (medium,) = row.segments[0].media
    assert isinstance(medium, Medium) and medium.tokens == 1
