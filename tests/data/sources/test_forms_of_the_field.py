"""Examples as public data sets write them: each is read, or refused in one line, never as text."""

import base64
from io import BytesIO

import numpy as np
import pytest
import source_files
from PIL import Image

from owl_jax.data.sources.csv_rows import CsvSource
from owl_jax.data.sources.detect import open_source
from owl_jax.data.sources.json_array import JsonArraySource
from owl_jax.data.sources.media_keys import looks_like_media
from owl_jax.data.sources.values import record_from
from owl_jax.demo.synthetic import SyntheticSource
from owl_jax.errors import BadData, UserError
from owl_jax.text.turns import SYSTEM

PICTURE = "\nHuman: <image>\nHuman: What is it?\nAI: An owl."
VIDEO = PICTURE.replace("<image>", "<|video|>")
WORDS = PICTURE.replace("\nHuman: <image>", "")
CAPTION = "\nHuman: <image>\nAI: An owl."
ASKED, SAID = "What is it?", "An owl."
BOT = {"from": "bot", "value": SAID}


def png():
    buffer = BytesIO()
    Image.new("RGB", (8, 8), "tan").save(buffer, "PNG")
    return buffer.getvalue()


def read(tmp_path, values):
    record = record_from(values, "data.jsonl:1", tmp_path)
    return record["text"].removeprefix(SYSTEM), record["images"], record["videos"]


@pytest.mark.parametrize(
    "key",
    [
        *("image", "images", "image_path", "imagePath", "image-file", "img", "img_path", "picture"),
        *("file_name", "filename", "file", "path", "left_file_name", "photo", "image_url", "jpg"),
    ],
)
def test_a_picture_is_read_under_the_names_that_it_has(tmp_path, key):
    values = {"question": ASKED, "answer": SAID, key: "owls/a.jpg"}
    assert read(tmp_path, values) == (PICTURE, [tmp_path / "owls/a.jpg"], [])


@pytest.mark.parametrize("key", ["video", "videos", "video_path", "clip", "file_name", "mp4"])
def test_a_video_is_read_under_the_names_that_it_has(tmp_path, key):
    values = {"question": ASKED, "answer": SAID, key: "a.mp4"}
    assert read(tmp_path, values) == (VIDEO, [], [tmp_path / "a.mp4"])


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"instruction": ASKED, "input": "", "output": SAID}, "\nHuman: What is it?\n"),
        ({"instruction": "Answer.", "input": ASKED, "output": SAID}, "\nHuman: Answer.\nWhat is"),
        ({"query": ASKED, "response": SAID}, WORDS),
        ({"query": "<image>What is it?", "response": SAID, "images": ["a.jpg"]}, PICTURE),
        ({"prompt": ASKED, "completion": SAID, "image": "a.jpg"}, PICTURE),
        ({"prefix": ASKED, "suffix": SAID, "image": "a.jpg"}, PICTURE),
        ({"texts": [{"user": ASKED, "assistant": SAID}], "images": ["a.jpg"]}, PICTURE),
        ({"messages": [{"role": "user", "content": f"<video>{ASKED}"}, "SAID"], "videos": "v"}, ""),
        ({"question": "How many?", "answer": 2}, "\nHuman: How many?\nAI: 2"),
        ({"question": "How much?", "answer": 0.5}, "\nHuman: How much?\nAI: 0.5"),
        ({"question": "Is it?", "answer": True}, "\nHuman: Is it?\nAI: yes"),
        ({"question": "What?", "answers": ["owl", "bird", "owl"]}, "\nHuman: What?\nAI: owl"),
        ({"question": "What?", "answers": [{"answer": "b"}, {"answer": "a"}]}, "What?\nAI: b"),
        ({"captions": ["An owl.", "A bird."], "image": "a.jpg"}, CAPTION),
        ({"text": "An owl.", "image": "a.jpg"}, CAPTION),
        ({"text": "An owl.", "file_name": "a.jpg"}, CAPTION),
        (
            {"conversation": [{"from": "human", "value": ASKED}, {"from": "bot", "value": SAID}]},
            WORDS,
        ),
        (
            {"query": ASKED, "response": SAID, "history": [["Hi", "Hello"]], "system": "S"},
            "S\nHuman: Hi\nAI: Hello\nHuman: What is it?\nAI: An owl.",
        ),
        (
            {
                "messages": [
                    {"role": "user", "content": ASKED, "image": "a.jpg"},
                    {"role": "assistant", "content": SAID},
                ]
            },
            PICTURE,
        ),
        (
            {
                "messages": [
                    {"role": "user", "content": [{"image": "a.jpg"}, {"text": ASKED}]},
                    {"role": "assistant", "content": SAID},
                ]
            },
            PICTURE,
        ),
    ],
)
def test_forms(tmp_path, values, text):
    if "SAID" in values.get("messages", ()):
        values["messages"][1] = {"role": "assistant", "content": SAID}
        text = "\nHuman: <|video|>What is it?\nAI: An owl."
    assert text in read(tmp_path, values)[0]


def test_llava_nexts_image_mark_of_a_video(tmp_path):
    turns = [{"from": "human", "value": f"<image>\n{ASKED}"}, {"from": "gpt", "value": SAID}]
    values = {"conversations": turns, "video": "a.mp4"}
    assert read(tmp_path, values) == (VIDEO, [], [tmp_path / "a.mp4"])


@pytest.mark.parametrize("form", ["{}", "data:image/png;base64,{}", " {}\n"])
def test_base64_is_a_picture(tmp_path, form):
    value = form.format(base64.b64encode(png()).decode())
    _, (found,), _ = read(tmp_path, {"caption": "An owl.", "image": value})
    assert found == png()


@pytest.mark.parametrize("value", [[None], [], [None, None], "", " ", None])
def test_nothing_is_no_picture(tmp_path, value):
    values = {"question": ASKED, "answer": SAID, "images": value}
    assert read(tmp_path, values) == (WORDS, [], [])


@pytest.mark.parametrize(
    ("values", "reason", "said"),
    [
        ({"photograph": "a.jpg"}, "unread medium", '"photograph" looks like a picture or video'),
        ({"meta": {"image": "a.jpg"}}, "unread medium", '"meta" looks like'),
        ({"raw": {"bytes": png(), "path": None}}, "unread medium", '"raw" looks like'),
        ({"frame0": png()}, "unread medium", '"frame0" looks like'),
        ({"inline": "data:image/png;base64,AAAA"}, "unread medium", '"inline" looks like'),
        ({"pixels": np.zeros((8, 8, 3), np.uint8)}, "unread medium", '"pixels" looks like'),
        ({"coco_url": "http://x.org/1.jpg"}, "remote medium", "nothing is fetched"),
        ({"image": "https://x.org/1"}, "remote medium", "is an address"),
        ({"image": "s3://owls/1.jpg"}, "remote medium", "is an address"),
        ({"image": "x" * 5000}, "not a medium", "is not a picture or video"),
        ({"image": "a.jpg", "image_path": "b.jpg"}, "two media keys", '"image" and "image_path"'),
        ({"image": "file://elsewhere/a.jpg"}, "not a medium", "not a file of this machine"),
    ],
)
def test_what_is_not_read_is_never_passed_over(tmp_path, values, reason, said):
    with pytest.raises(BadData, match=said) as told:
        read(tmp_path, {"question": ASKED, "answer": SAID, **values})
    assert told.value.reason == reason
    message = str(told.value)
    assert message.startswith("data.jsonl:1: ") and "\n" not in message and len(message) < 500


def test_what_is_not_read_beside_a_picture_is_named(tmp_path):
    values = {"caption": "An owl.", "image": "a.jpg", "depth": "d.png", "url": "http://x.org/a.jpg"}
    assert record_from(values, "x:1", tmp_path)["unread"] == ("depth", "url")
    values = {"caption": "An owl.", "image": png(), "file_name": "a.jpg", "image_path": "b/a.jpg"}
    assert "unread" not in record_from(values, "x:1", tmp_path)


@pytest.mark.parametrize("text", ["The dog is shown here in dog.jpg", "a\nb.png", "plain", "", 5])
def test_sentences_do_not_look_like_media(text):
    assert not looks_like_media(text)


@pytest.mark.parametrize(
    ("header", "row", "text"),
    [
        ("file_name,text", "a.jpg,An owl.", CAPTION),
        ("image_path,question,answer", "a.jpg,What is it?,An owl.", PICTURE),
        ("Filename;Caption", "a.jpg;An owl.", CAPTION),
        ("img,query,response", "a.jpg,What is it?,An owl.", PICTURE),
    ],
)
def test_tables_have_the_same_names(tmp_path, header, row, text):
    (tmp_path / "metadata.csv").write_text(f"{header}\n{row}\n")
    record = CsvSource(tmp_path / "metadata.csv", tmp_path)[0]
    assert record["text"].removeprefix(SYSTEM) == text
    assert record["images"] == [tmp_path / "a.jpg"]


def test_a_column_that_is_not_read_is_refused(tmp_path):
    (tmp_path / "x.csv").write_text("photograph,question,answer\na.jpg,What?,An owl.\n")
    with pytest.raises(BadData, match=r'x\.csv:2: "photograph" looks like'):
        CsvSource(tmp_path / "x.csv", tmp_path)[0]


def test_a_folder_of_pictures_with_a_table_is_read_by_the_table(tmp_path):
    source_files.write_files(
        tmp_path, {"a.jpg": b"", "metadata.csv": "file_name,text\na.jpg,Owl.\n"}
    )
    source = open_source(str(tmp_path))
    assert [record["images"] for record in (source[i] for i in range(len(source)))] == [
        [tmp_path / "a.jpg"]
    ]


def test_names_with_dots_are_records_of_their_own(tmp_path):
    names = ("Dr. A", "Dr. B", "at 10.15.30", "at 10.15.31", "2205.00001", "2205.00002")
    files = {f"{name}.jpg": b"" for name in names} | {f"{name}.txt": name for name in names}
    folder = tmp_path / "folder"
    folder.mkdir()
    source_files.write_files(folder, files)
    tar = source_files.write_tar(tmp_path / "x.tar", files)
    for source in (open_source(str(folder)), open_source(str(tar))):
        records = [source[i] for i in range(len(source))]
        found = {record["text"].rpartition("AI: ")[2]: record["images"] for record in records}
        assert found.keys() == set(names)
        assert all(str(found[name][0]).endswith(f"{name}.jpg") for name in names)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ('{"info": {}, "images": [{"id": 1}], "annotations": []}', "COCO and VQAv2"),
        ('{"annotations": [{"image_id": 1, "caption": "x"}]}', "COCO and VQAv2"),
        ('{"questions": [{"question": "x"}]}', "answers are in another file"),
        ('{"data": [1]}', "expected one JSON array of objects"),
    ],
)
def test_files_of_one_object_are_named(tmp_path, words, said):
    path = tmp_path / "x.json"
    path.write_text(words)
    with pytest.raises(UserError, match=said) as told:
        JsonArraySource(path, tmp_path)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("weight", ["nan", "inf", "-1", "0", "owl", "1e999"])
def test_weights_of_the_embedded_data_set_are_finite(weight):
    with pytest.raises(UserError, match=r"weights|not a number"):
        open_source(f"{source_files.EMBEDDED}:vqa={weight}")
    if weight != "owl":
        with pytest.raises(UserError, match="finite weights"):
            SyntheticSource({"vqa": float(weight)}, size=10)


@pytest.mark.parametrize(
    "line",
    [
        '{"image": "a.jpg", "image": "b.jpg", "question": "What?", "answer": "An owl."}',
        '{"question": "What?", "answer": "An owl.", "answer": "A cat."}',
        '{"messages": [{"role": "user", "role": "system", "content": "What?"}]}',
    ],
)
def test_a_key_that_is_there_twice_is_refused(tmp_path, line):
    (tmp_path / "data.jsonl").write_text(line + "\n")
    (tmp_path / "data.json").write_text(f"[{line}]")
    (tmp_path / "samples").mkdir()
    (tmp_path / "samples" / "1.json").write_text(line)
    for name in ("data.jsonl", "data.json", "samples"):
        with pytest.raises(BadData, match="twice in one object") as told:
            open_source(str(tmp_path / name))[0]
        assert told.value.reason == "malformed record"


@pytest.mark.parametrize("name", ["a.wav", "clips/a.mp3", "A.FLAC", "a.ogg"])
def test_a_sound_is_no_text(tmp_path, name):
    with pytest.raises(BadData) as told:
        read(tmp_path, {"audio": name, "question": ASKED, "answer": SAID})
    assert told.value.reason == "unread medium"
