"""What looks like a medium and is not read is reported, wherever in an example it is."""

import base64
import json
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from owl_jax.data.sources.csv_rows import CsvSource
from owl_jax.data.sources.values import record_from
from owl_jax.errors import BadData, UserError

QA = {"question": "What is it?", "answer": "An owl."}


def png():
    buffer = BytesIO()
    Image.new("RGB", (8, 8), "tan").save(buffer, "PNG")
    return buffer.getvalue()


BASE64 = base64.b64encode(png()).decode()


def turns(words="What is it?", **beside):
    return [{"role": "user", "content": words, **beside}, {"role": "assistant", "content": "Owl."}]


@pytest.mark.parametrize(
    "values",
    [
        {"scan": "a.heic"},
        {"drawing": "a.svg"},
        {"recording": "a.3gp"},
        {"gallery": [None, "a.jpg"]},
        {"gallery": [{"id": 1}, {"shown": "a.jpg"}]},
        {"pixel_values": np.zeros((3, 8, 8), np.float32)},
        {"pixel_values": [[[0.5] * 3] * 9] * 9},
        {"meta": json.dumps({"shown": "a.jpg"})},
        {"meta": "['a.jpg', 'b.jpg']"},
        {"meta": json.dumps({"inline": f"data:image/png;base64,{BASE64}"})},
        {"photograph": "my holiday picture of the sea in may.jpg"},
        {"shown": "C:\\owls\\on a tree in may.jpg"},
        {"blob": bytearray(png())},
        {"image_id": 41},
        {"imageId": "n161313"},
        {"video_id": "vid7"},
        {"description": "a.jpg"},
        {"question": "owls/a.jpg"},
        {"question": None, "answer": None, "input": "a.jpg", "output": "An owl."},
        {"messages": turns(attachment="a.jpg")},
        {"messages": turns(extra=[{"url": f"data:image/png;base64,{BASE64}"}])},
        {"messages": turns([{"type": "text", "text": "q", "shown": "a.jpg"}])},
        {"text": "\nHuman: hi\nAI: yo", "messages": turns(image="a.jpg")},
        {"messages": turns("Picture 1: <img>owls/a.jpg</img>\nWhat is it?")},
        {"messages": turns("<video>a.mp4</video>What is it?")},
    ],
)
def test_it_is_refused_where_nothing_else_is_shown(tmp_path, values):
    values = values if "messages" in values else {**QA, **values}
    with pytest.raises(BadData) as told:
        record_from(values, "x:1", tmp_path)
    assert told.value.reason in ("unread medium", "media marks")
    assert "\n" not in str(told.value) and len(str(told.value)) < 500


@pytest.mark.parametrize(
    "values",
    [
        QA,
        {**QA, "answer": "dog.jpg"},
        {**QA, "question": "What does convert a.png b.png do?"},
        {**QA, "boxes": [[[0, 1], [2, 3], [4, 5]]]},
        {**QA, "boxes": np.zeros((1, 3, 4))},
        {**QA, "embedding": [0.5] * 768},
        {**QA, "id": "owls/a.jpg", "source": "paper.pdf"},
        {**QA, "image": None, "image_id": 41},
        {**QA, "image_id": ""},
        {**QA, "meta": json.dumps({"words": 7})},
        {"messages": turns("Look at photo.jpg", name="Ann")},
        {"messages": turns(image=None, images=[], video="")},
    ],
)
def test_text_alone_stays_what_it_is(tmp_path, values):
    record = record_from(values, "x:1", tmp_path)
    assert (record["images"], record["videos"]) == ([], []) and "unread" not in record


@pytest.mark.parametrize("key", ["Image", "IMAGES", "_image", "image/path", "image:url"])
def test_names_are_read_in_every_spelling(tmp_path, key):
    assert record_from({**QA, key: "a.jpg"}, "x:1", tmp_path)["images"] == [tmp_path / "a.jpg"]


@pytest.mark.parametrize("key", ["image", "image_path", "img", "file_name", "photo"])
@pytest.mark.parametrize("words", ["What is it?", "<image>\nWhat is it?", "What is it?<|image|>"])
def test_turns_show_under_the_same_names(tmp_path, key, words):
    record = record_from({"conversations": turns(words, **{key: "a.jpg"})}, "x:1", tmp_path)
    assert record["images"] == [tmp_path / "a.jpg"] and record["text"].count("<image>") == 1


@pytest.mark.parametrize("role", ["assistant", "system"])
def test_only_users_show(tmp_path, role):
    messages = [*turns(), {"role": role, "content": "x", "image": "a.jpg"}]
    with pytest.raises(BadData, match="only the user's"):
        record_from({"messages": messages}, "x:1", tmp_path)


@pytest.mark.parametrize("other", ["right/a.jpg", "b.jpg", "/left/c/a.jpg"])
def test_pictures_of_one_name_in_two_folders_are_two(tmp_path, other):
    values = {**QA, "image": "left/a.jpg", "image_path": other}
    with pytest.raises(BadData, match="hold different media"):
        record_from(values, "x:1", tmp_path)
    values = {**QA, "image": "left/a.jpg", "file_name": other}
    assert record_from(values, "x:1", tmp_path)["unread"] == ("file_name",)


@pytest.mark.parametrize("other", ["a.jpg", "/data/left/a.jpg", "./left/a.jpg", "left\\a.jpg"])
def test_one_picture_under_two_names_is_one(tmp_path, other):
    for key in ("image_path", "file_name"):
        record = record_from({**QA, "image": "left/a.jpg", key: other}, "x:1", tmp_path)
        assert len(record["images"]) == 1 and "unread" not in record


def test_a_column_that_is_there_twice(tmp_path):
    for header in ("image,image,caption", "Image,image,caption", "caption,image,Caption"):
        (tmp_path / "x.csv").write_text(f"{header}\na,b,c\n")
        with pytest.raises(UserError, match="more than once"):
            CsvSource(tmp_path / "x.csv", tmp_path)


@pytest.mark.parametrize(
    ("answer", "said"), [(1, "barn owl"), (np.int64(0), "eagle"), ("barn owl", "barn owl")]
)
def test_the_number_of_a_choice_is_its_words(tmp_path, answer, said):
    values = {**QA, "answer": answer, "choices": ["eagle", "barn owl"], "image": "a.jpg"}
    assert record_from(values, "x:1", tmp_path)["text"].endswith(f"AI: {said}")


@pytest.mark.parametrize("answer", ["B", "(A)", 2, -1])
def test_the_letter_of_a_choice_that_nobody_sees_is_refused(tmp_path, answer):
    values = {**QA, "answer": answer, "options": ["eagle", "barn owl"], "image": "a.jpg"}
    with pytest.raises(BadData, match="options"):
        record_from(values, "x:1", tmp_path)
    values |= {"answer": "B", "question": "Which?\nA. eagle\nB. barn owl"}
    assert record_from(values, "x:1", tmp_path)["text"].endswith("AI: B")
