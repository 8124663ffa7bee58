import json
import pickle

import pytest

from owl_jax.data.sources import JsonLinesSource
from owl_jax.errors import UserError
from owl_jax.processing.conversation import SYSTEM

TEXT = "Be kind.\nHuman: <image>\nHuman: What?\nAI: An owl."


@pytest.fixture
def write(tmp_path):
    def write(*lines, name="data.jsonl"):
        """A file of lines: text as it is, bytes too, anything else as JSON."""
        encoded = [
            line
            if isinstance(line, bytes)
            else (line if isinstance(line, str) else json.dumps(line)).encode()
            for line in lines
        ]
        (tmp_path / name).write_bytes(b"\n".join(encoded))
        return JsonLinesSource(tmp_path / name, tmp_path / "media")

    return write


def test_a_record_has_its_media_below_the_root(write, tmp_path):
    source = write(
        {"text": TEXT, "image": ["a.jpg", "b/c.png"], "video": ["v.mp4"], "task_type": "vqa"}
    )
    assert source[0] == {
        "text": TEXT,
        "images": [tmp_path / "media" / "a.jpg", tmp_path / "media" / "b" / "c.png"],
        "videos": [tmp_path / "media" / "v.mp4"],
        "task_type": "vqa",
        "where": f"{tmp_path}/data.jsonl:1",
    }


def test_media_may_be_one_path_absolute_or_none(write, tmp_path):
    source = write(
        {"text": TEXT, "image": "a.jpg", "video": "v"},
        {"text": TEXT, "image": "/elsewhere/a.jpg", "video": None},
        {"text": TEXT, "image": []},
    )
    assert source[0]["images"] == [tmp_path / "media" / "a.jpg"]
    assert source[0]["videos"] == [tmp_path / "media" / "v"]
    assert [str(path) for path in source[1]["images"]] == ["/elsewhere/a.jpg"]
    assert source[1]["videos"] == source[2]["images"] == source[2]["videos"] == []
    assert source[2]["task_type"] == ""


def test_question_and_answer_are_a_conversation_of_one_turn(write, tmp_path):
    source = write(
        {"image": "1.jpg", "question_id": 1, "question": "What?\n", "answer": "An owl.\n\nAwake."},
        {"question": "Why?", "answer": "So."},
        {"question": "Why?", "answer": 4},
    )
    assert source[0]["text"] == f"{SYSTEM}\nHuman: <image>\nHuman: What?\nAI: An owl.\n\nAwake."
    assert source[0]["images"] == [tmp_path / "media" / "1.jpg"]
    assert source[1]["text"] == f"{SYSTEM}\nHuman: Why?\nAI: So." and not source[1]["images"]
    with pytest.raises(UserError, match=r'data\.jsonl:3: .* or with "question" and "answer"'):
        source[2]


def test_blank_lines_count_as_lines_but_not_as_records(write, tmp_path):
    source = write("", {"text": "one"}, "  \t", "", {"text": "two"}, "")
    assert len(source) == 2
    assert [(source[i]["text"], source[i]["where"][-2:]) for i in (1, 0)] == [
        ("two", ":5"),
        ("one", ":2"),
    ]


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_line_ends_and_letters_of_every_kind(tmp_path, newline):
    lines = [
        json.dumps({"text": text}, ensure_ascii=False) for text in ("Fräulein", "鸮\u2028", "c")
    ]
    path = tmp_path / "data.jsonl"
    path.write_bytes(("\ufeff" + newline.join(lines)).encode())
    source = JsonLinesSource(path, tmp_path)
    assert [source[i]["text"] for i in range(len(source))] == ["Fräulein", "鸮\u2028", "c"]


def test_lines_are_read_when_they_are_asked_for(write, tmp_path):
    source = write({"text": "one"}, "nonsense {", {"text": "two"})
    assert len(source) == 3
    assert source[2]["text"] == "two"
    path = tmp_path / "data.jsonl"
    path.write_bytes(path.read_bytes().replace(b"two", b"six"))
    assert source[2]["text"] == "six"


def test_a_source_travels_to_workers(write):
    source = write({"text": "one"}, {"text": "two"})
    assert pickle.loads(pickle.dumps(source))[1] == source[1]


@pytest.mark.parametrize(
    "line",
    [
        '{"text": "cut sho',
        "plain words",
        "[1, 2]",
        '["text"]',
        '"text"',
        "3",
        "null",
        '{"text": 3}',
        '{"text": null}',
        '{"image": ["a.jpg"]}',
        b'{"text": "\xff\xfe"}',
        b"\x00\x01\x02",
        '{"text": "half a \\ud83d letter"}',
        "[" * 100_000,
    ],
    ids=lambda line: str(line)[:20],
)
def test_a_line_that_is_no_record_is_named(write, line):
    source = write({"text": "one"}, "", line)
    assert source[0]["text"] == "one"
    with pytest.raises(UserError, match=r'data\.jsonl:3: expected a JSON object with a "text"'):
        source[1]


@pytest.mark.parametrize("key", ["image", "video"])
@pytest.mark.parametrize(
    "value", [3, 1.5, True, False, 0, {"a.jpg": 1}, [3], ["a.jpg", None], [["a.jpg"]]]
)
def test_media_that_are_no_paths_are_named(write, key, value):
    source = write({"text": TEXT, key: value})
    with pytest.raises(UserError, match=r'data\.jsonl:1: "image" and "video" must be a path'):
        source[0]


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"none\.jsonl: cannot be read \(No such file"):
        JsonLinesSource(tmp_path / "none.jsonl", tmp_path)
    with pytest.raises(UserError, match="cannot be read"):
        JsonLinesSource(tmp_path, tmp_path)


@pytest.mark.parametrize("lines", [(), ("", "  ", "")])
def test_an_empty_file_is_named(write, lines):
    with pytest.raises(UserError, match=r"data\.jsonl: empty; expected one JSON object a line"):
        write(*lines)


def test_a_file_that_vanished_is_named(write, tmp_path):
    source = write({"text": "one"})
    (tmp_path / "data.jsonl").unlink()
    with pytest.raises(UserError, match=r"data\.jsonl.*cannot be read"):
        source[0]
