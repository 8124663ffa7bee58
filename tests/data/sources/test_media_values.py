"""Pictures and videos in every form that a file may hold; nothing is opened or decoded."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from owl_jax.data.sources.media_values import images_from, videos_from
from owl_jax.data.sources.record import FilePart
from owl_jax.errors import BadData

ROOT = Path("/media")
PIXELS = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
PICTURE = Image.fromarray(PIXELS)
PART = FilePart(Path("a.tar"), 512, 10, "a.tar/1.jpg")


def images(value):
    return images_from(value, "x:1", ROOT)


def videos(value):
    return videos_from(value, "x:1", ROOT)


@pytest.mark.parametrize(
    ("value", "medium"),
    [
        ("a.jpg", ROOT / "a.jpg"),
        ("b/c.png", ROOT / "b" / "c.png"),
        ("/elsewhere/a.jpg", Path("/elsewhere/a.jpg")),
        (Path("a.jpg"), ROOT / "a.jpg"),
        (b"JPEG", b"JPEG"),
        ({"bytes": b"JPEG", "path": "a.jpg"}, b"JPEG"),
        ({"bytes": None, "path": "a.jpg"}, ROOT / "a.jpg"),
        ({"path": "/elsewhere/a.jpg"}, Path("/elsewhere/a.jpg")),
        (PART, PART),
        ("data:image/png;base64,aGFsbG8=", b"hallo"),
    ],
)
def test_one_or_a_list_of_them(value, medium):
    assert images(value) == videos(value) == [medium]
    assert images([value, "b.jpg"]) == videos((value, "b.jpg")) == [medium, ROOT / "b.jpg"]
    assert images(np.array([value, "b.jpg"], object)) == [medium, ROOT / "b.jpg"]
    assert videos([[value, "b.jpg"], value]) == [[medium, ROOT / "b.jpg"], medium]


@pytest.mark.parametrize("value", [None, "", " ", [], ()])
def test_none(value):
    assert images(value) == videos(value) == []


def test_pictures_stay_pictures():
    assert images(PICTURE) == [PICTURE]
    assert videos([PICTURE, [PICTURE, b"JPEG"]]) == [[PICTURE], [PICTURE, b"JPEG"]]


def test_arrays_become_pictures():
    grey = PIXELS[:, :, 0]
    for array, expected in ((PIXELS, PIXELS), (grey, grey), (grey[:, :, None], grey)):
        (found,) = images(array)
        np.testing.assert_array_equal(np.asarray(found), expected)
    found = images(np.stack([PIXELS, 255 - PIXELS]))
    assert [np.asarray(image).tolist() for image in found] == [
        PIXELS.tolist(),
        (255 - PIXELS).tolist(),
    ]


def test_arrays_become_videos():
    clip = np.stack([PIXELS, 255 - PIXELS, PIXELS])
    for value, count in ((clip, 1), ([clip], 1), (np.stack([clip, clip]), 2), ([clip, clip], 2)):
        found = videos(value)
        assert [len(frames) for frames in found] == [3] * count
        np.testing.assert_array_equal(np.asarray(found[-1][1]), 255 - PIXELS)
    assert [len(frames) for frames in videos(PIXELS)] == [1]


@pytest.mark.parametrize(
    "value",
    [
        3,
        1.5,
        True,
        0,
        {"a.jpg": 1},
        {"bytes": None, "path": None},
        [3],
        ["a.jpg", None],
        ["a.jpg", ""],
        "a\0.jpg",
        "half \ud83d",
        PIXELS.astype(np.float32),
        np.zeros((0, 4, 3), np.uint8),
        np.zeros((2, 4, 5), np.uint8),
        np.zeros(4, np.uint8),
        "data:image/png,raw",
        "data:image/png;base64,#",
        {"words\n": "x" * 100_000},
    ],
    ids=lambda value: ascii(value)[:20],
)
def test_what_is_no_medium_is_told(value):
    for read in (images, videos):
        with pytest.raises(BadData, match=r"^x:1: [^\n]{1,200}$") as error:
            read(value)
        assert error.value.reason == "not a medium"
