"""How conversations find their rows, how full the rows are, and that they go on where they were."""

import itertools
import json

import grain
import numpy as np
import pytest

from owl_jax.data.batch import SequenceShape
from owl_jax.data.conversations import Conversation
from owl_jax.data.drops import Dropped
from owl_jax.data.packing import Packer, PackRows
from owl_jax.errors import UserError
from owl_jax.text.media_index import MediaLengths

SHAPE = SequenceShape(
    length=10, media=MediaLengths(2, 2), image_size=2, image_slots=2, video_slots=1, frames=2
)


def conversation(number, length, images=0, videos=0):
    return Conversation(
        number,
        np.arange(length + 1, dtype=np.int32),
        np.ones(length + 1, bool),
        [b"picture"] * images,
        [b"video"] * videos,
        False,
        f"list:{number}",
    )


def place(items, open_rows, shape=SHAPE):
    """Numbers in each closed row and in each open one."""
    packer = Packer(shape, open_rows)
    closed = [row for item in items if (row := packer.place(item))]
    return [[[item.number for item in row.conversations] for row in rows]
            for rows in (closed, packer.rows)]  # fmt: skip


def numbered(*lengths):
    return [conversation(number, length) for number, length in enumerate(lengths)]


def test_a_conversation_goes_into_the_fullest_row_that_has_room():
    assert place(numbered(5, 7, 3, 4), 2) == [[], [[0, 3], [1, 2]]]


def test_the_fullest_row_is_closed_for_one_that_fits_nowhere():
    assert place(numbered(5, 7, 6), 2) == [[[1]], [[0], [2]]]


def test_a_row_is_filled_to_its_last_position():
    assert place(numbered(6, 4, 1), 1) == [[[0, 1]], [[2]]]


def test_media_need_slots_as_words_need_positions():
    items = [conversation(0, 2, images=2), conversation(1, 2, images=1), conversation(2, 2)]
    assert place(items, 2) == [[], [[0, 2], [1]]]
    items = [conversation(0, 2, videos=1), conversation(1, 2, videos=1), conversation(2, 3, 2)]
    assert place(items, 2) == [[], [[0, 2], [1]]]


def test_a_row_that_nothing_fits_into_does_not_stay_open_for_ever():
    items = [conversation(0, 1, images=2), *(conversation(n, 9, images=1) for n in range(1, 60))]
    closed, _ = place(items, 2)
    assert [0] in closed
    assert closed.index([0]) <= 41  # twenty for each open row


def stream(items, open_rows, shape=SHAPE):
    dataset = grain.MapDataset.source(items)
    return iter(PackRows(dataset.to_iter_dataset(), dataset, shape, open_rows))


@pytest.fixture(scope="module")
def llava_like():
    """Lengths as of visual instructions, some with words alone, in a row of 2,048 positions."""
    random = np.random.default_rng(0)
    lengths = np.minimum(110 + random.lognormal(np.log(290), 0.4, 4000).astype(int), 2048)
    with_picture = random.random(4000) < 0.9
    return [
        conversation(n, int(k), int(p))
        for n, (k, p) in enumerate(zip(lengths, with_picture, strict=True))
    ]


ROW = SequenceShape(length=2048, media=MediaLengths(65, 65), image_size=2, image_slots=5)


def test_rows_are_nearly_full_and_hold_each_conversation_once(llava_like):
    packer = Packer(ROW, 64)
    rows = [row for item in llava_like if (row := packer.place(item))]
    assert np.mean([row.length for row in rows]) >= 0.95 * ROW.length
    assert np.mean([row.images for row in rows]) >= 0.8 * ROW.image_slots
    numbers = [item.number for row in [*rows, *packer.rows] for item in row.conversations]
    assert sorted(numbers) == list(range(4000))
    for row in rows:
        assert row.length == sum(item.length for item in row.conversations) <= ROW.length
        assert row.images == sum(len(item.images) for item in row.conversations) <= 5


def test_no_conversation_is_kept_back_for_long(llava_like):
    packer = Packer(ROW, 16)
    for count, item in enumerate(llava_like, start=1):
        if row := packer.place(item):
            oldest = min(each.number for each in row.conversations)
            # A row is closed when it is its turn, and there are sixteen at the most.
            assert count - oldest <= (20 + 16) * 16


def test_without_open_rows_each_has_a_row_of_its_own():
    rows = list(stream(numbered(1, 2, 3), 0))
    assert [[item.number for item in row] for row in rows] == [[0], [1], [2]]


def test_resumes_in_the_middle_of_a_row(llava_like):
    def numbers(rows):
        return [[item.number for item in row] for row in rows]

    rows = stream(llava_like, 64, ROW)
    for _ in range(37):
        next(rows)
    state = json.loads(json.dumps(rows.get_state()))
    expected = numbers(itertools.islice(rows, 100))
    assert sum(len(row["numbers"]) for row in state["open"]) > 100

    fresh = stream(llava_like, 64, ROW)
    fresh.set_state(state)
    assert numbers(itertools.islice(fresh, 100)) == expected
    used = stream(llava_like, 64, ROW)
    for _ in range(5):
        next(used)
    used.set_state(state)
    assert numbers(itertools.islice(used, 100)) == expected
    assert fresh.get_state() == used.get_state() == rows.get_state()


def test_a_state_whose_conversations_are_gone_is_refused(llava_like):
    rows = stream(llava_like, 4, ROW)
    next(rows)
    state = rows.get_state()
    number = state["open"][0]["numbers"][0]
    changed = list(llava_like)
    changed[number] = Dropped(f"list:{number}", "missing file", f"list:{number}: gone")
    with pytest.raises(UserError, match=rf"data has changed since .*list:{number}: gone"):
        stream(changed, 4, ROW).set_state(state)
    changed[number] = conversation(number, 7)
    with pytest.raises(UserError, match=rf"data has changed since the checkpoint: list:{number};"):
        stream(changed, 4, ROW).set_state(state)
