import base64
import io

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from owl_jax.errors import UserError
from owl_jax.inference.given_media import (
    listed_clips,
    listed_pictures,
    open_clip,
    open_picture,
    take_out,
)

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 5, 3), np.uint8)


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "an owl.png"
    Image.fromarray(PIXELS).save(path)
    return path


def user(*parts):
    return [{"role": "user", "content": list(parts)}]


def test_one_picture_in_every_form(path):
    data = path.read_bytes()
    text = base64.b64encode(data).decode()
    forms = [
        *(
            path,
            str(path),
            f"file://{str(path).replace(' ', '%20')}",
            f"data:image/png;base64,{text}",
        ),
        *(data, bytearray(data), memoryview(data), io.BytesIO(data)),
        *(Image.fromarray(PIXELS), PIXELS, jnp.asarray(PIXELS), {"bytes": data, "path": "x.png"}),
    ]
    for form in forms:
        (picture,) = listed_pictures(form)
        np.testing.assert_array_equal(np.asarray(open_picture(picture)), PIXELS)
    with path.open("rb") as file:
        assert open_picture(*listed_pictures(file)).size == (5, 6)


def test_several_pictures():
    several = [PIXELS, PIXELS]
    for form in (several, tuple(several), np.stack(several), jnp.stack(several), iter(several)):
        assert len(listed_pictures(form)) == 2
    grey = open_picture(PIXELS[..., 0])
    np.testing.assert_array_equal(np.asarray(grey)[..., 1], PIXELS[..., 0])


@pytest.mark.parametrize(
    ("source", "named"),
    [
        (PIXELS / 255, r"float64\[6, 5, 3\]; expected uint8"),
        (PIXELS.astype(int), "int64"),
        (np.zeros((3, 8, 8), np.uint8), r"uint8\[3, 8, 8\]"),
        (np.zeros((0, 8, 3), np.uint8), "no pixels"),
        ("https://example.org/owl.png", "nothing is fetched"),
        ("data:image/png;base64,@@@", "damaged base64"),
        ("data:nothing", "expected data:image"),
        (io.StringIO("text"), "opened as text"),
        ({"file_id": "file-1"}, "file_id"),
        ({}, "no keys"),
        (5, "found int"),
    ],
)
def test_what_is_no_picture_is_one_line(source, named):
    with pytest.raises(UserError, match=named) as caught:
        open_picture(source)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("images", [5, {1, 2}, object()])
def test_what_is_no_collection_is_one_line(images):
    with pytest.raises(UserError, match="expected a path, bytes"):
        listed_pictures(images)


def test_videos_in_every_form(tmp_path):
    frames = np.stack([PIXELS, 255 - PIXELS])
    for n, frame in enumerate(frames):
        Image.fromarray(frame).save(tmp_path / f"{n}.png")
    paths = [tmp_path / "0.png", tmp_path / "1.png"]
    expected = open_clip(tmp_path, 2, 4)
    pil = [Image.fromarray(frame) for frame in frames]
    for form in (frames, jnp.asarray(frames), list(frames), pil, [paths], [map(str, paths)]):
        (clip,) = listed_clips(form)
        np.testing.assert_array_equal(open_clip(clip, 2, 4), expected)
    assert len(listed_clips(np.stack([frames, frames, frames]))) == 3
    assert len(listed_clips([str(tmp_path), tmp_path])) == 2
    gif = io.BytesIO()
    pil[0].save(gif, "GIF", save_all=True, append_images=pil[1:])
    assert open_clip(*listed_clips(gif), 2, 4).shape == (2, 4, 4, 3)
    for wrong in (PIXELS, 5, []):
        with pytest.raises(UserError):
            open_clip(wrong, 2, 4)


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image_url", "image_url": {"url": "a.png", "detail": "low"}},
        {"type": "image_url", "image_url": "a.png"},
        {"type": "input_image", "image_url": "a.png"},
        {"type": "image", "image": "a.png", "text": None},
        {"type": "image", "path": "a.png"},
        {"type": "image", "url": "a.png"},
        {"type": "image", "source": {"type": "url", "url": "a.png"}},
    ],
)
def test_a_picture_inside_a_part(part):
    messages, pictures, clips = take_out(user(part), None, None)
    assert (messages, pictures, clips) == (user({"type": "image"}), ["a.png"], [])


def test_data_inside_a_part():
    data = base64.b64encode(b"pixels").decode()
    for part in (
        {"base64": data},
        {"source": {"type": "base64", "data": data}},
        {"bytes": b"pixels"},
    ):
        assert take_out(user({"type": "image", **part}), None, None)[1] == [b"pixels"]


def test_parts_without_their_media_take_those_beside_in_reading_order():
    parts = (
        {"type": "text", "text": "<image> or"},
        {"type": "image", "image": "inside.png"},
        {"type": "image"},
        {"type": "video", "video": "inside.mp4"},
        {"type": "input_text", "text": "which?"},
    )
    messages, pictures, clips = take_out(user(*parts), ["first.png", "second.png"], None)
    assert pictures == ["first.png", "inside.png", "second.png"]
    assert clips == ["inside.mp4"]
    assert messages[0]["content"][4] == {"type": "text", "text": "which?"}


@pytest.mark.parametrize(
    ("part", "images", "named"),
    [
        (
            {"type": "image", "image": "a.png"},
            ["b.png"],
            "1 part.s. with their own image, 0 <image>",
        ),
        (
            {"type": "image", "image": "a.png", "path": "b.png"},
            None,
            "image and path; expected one",
        ),
        ({"type": "image", "base64": "?"}, None, "damaged base64"),
        ({"type": "input_image", "file_id": "f"}, None, "file_id"),
        ({"type": "image_url", "image_url": {}}, None, "empty image_url"),
    ],
)
def test_wrong_parts(part, images, named):
    with pytest.raises(UserError, match=named):
        take_out(user(part), images, None)


@pytest.mark.parametrize("key", ["image", "images", "video"])
def test_media_beside_the_words_of_a_message(key):
    messages = [{"role": "user", "content": "What is it?", key: PIXELS if key != "video" else "v"}]
    plain, images, videos = take_out(messages, None, None)
    kind = key.removesuffix("s")
    assert plain == user({"type": kind}, {"type": "text", "text": "What is it?"})
    assert (len(images), len(videos)) == ((0, 1) if key == "video" else (1, 0))


@pytest.mark.parametrize(
    "message",
    [
        {"role": "user", "content": "What?", "image_path": "a.png"},
        {"role": "user", "content": "What?", "attachments": [{"url": "a.png"}]},
        {"role": "user", "content": "What?", "pixels": PIXELS.repeat(9, 0).repeat(9, 1)},
        {"role": "user", "content": "<image>What?", "image": "a.png"},
        {"role": "assistant", "content": "This.", "image": "a.png"},
        {"role": "user", "content": [{"type": "text", "text": "What?", "image": "a.png"}]},
        {"role": "user", "content": [{"type": "text", "text": "What?", "file": PIXELS.tobytes()}]},
    ],
)
def test_media_under_other_keys_are_not_passed_over(message):
    if "file" in message["content"][0]:
        message["content"][0]["file"] = b"\x89PNG\r\n\x1a\n"
    with pytest.raises(UserError) as told:
        take_out([message], None, None)
    assert "\n" not in str(told.value) and len(str(told.value)) < 500


def test_mappings_without_end_are_one_line():
    held = {}
    held["image"] = held
    with pytest.raises(UserError, match="mappings nested too deeply"):
        take_out(user({"type": "image", "image": held}), None, None)


def test_texts_that_are_no_path(path):
    data = base64.b64encode(path.read_bytes()).decode()
    for text in (data, f" {data}\n", f"\n data:image/png;base64,{data}"):
        np.testing.assert_array_equal(np.asarray(open_picture(text)), PIXELS)
    for text in ("", " "):
        with pytest.raises(UserError, match="empty text"):
            open_picture(text)


def test_eight_bits_in_wide_pixels_are_not_black():
    grey = Image.fromarray(PIXELS).convert("L")
    np.testing.assert_array_equal(open_picture(grey.convert("I")), open_picture(grey))
    deep = Image.fromarray(np.asarray(grey).astype(np.int32) * 257)
    np.testing.assert_array_equal(open_picture(deep), open_picture(grey))
