"""JSON Lines: which lines are records, the lines they are reported at, and the
messages about bad ones."""

import io
import json
import random

import numpy as np
import pytest

from owl_jax.data.sources.json_lines import JsonLinesSource, scan_lines
from owl_jax.errors import BadData, UserError
from owl_jax.text.turns import SYSTEM

TEXT = "Be kind.\nHuman: <image>\nHuman: What?\nAI: An owl."


@pytest.fixture
def write(tmp_path):
    def write(*lines):
        """A source of lines: text and bytes as they are, anything else as JSON."""
        encoded = [
            line
            if isinstance(line, bytes)
            else (line if isinstance(line, str) else json.dumps(line)).encode()
            for line in lines
        ]
        (tmp_path / "data.jsonl").write_bytes(b"\n".join(encoded))
        return JsonLinesSource(tmp_path / "data.jsonl", tmp_path / "media", tmp_path / "index")

    return write


def test_a_line_is_a_record_of_any_form(write, tmp_path):
    turns = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "An owl."}]
    source = write(
        {"text": TEXT, "image": ["a.jpg"], "task_type": "vqa"},
        {"id": 7, "conversations": turns, "image": "b.jpg"},
        {"image": "c.jpg", "caption": "An owl."},
    )
    assert source[0] == {
        "text": TEXT,
        "images": [tmp_path / "media" / "a.jpg"],
        "videos": [],
        "task_type": "vqa",
        "where": f"{tmp_path}/data.jsonl:1",
    }
    assert source[1]["text"] == f"{SYSTEM}\nHuman: <image>\nHuman: What?\nAI: An owl."
    assert source[2]["text"] == f"{SYSTEM}\nHuman: <image>\nAI: An owl."


def test_blank_lines_count_as_lines_but_not_as_records(write):
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


@pytest.mark.parametrize(
    ("reason", "line"),
    [
        ("malformed record", '{"text": "cut sho'),
        ("malformed record", "plain words"),
        ("invalid UTF-8", b'{"text": "\xff\xfe"}'),
        ("invalid UTF-8", '{"text": "half a \\ud83d letter"}'),
        ("not an example", "[1, 2]"),
        ("not an example", '{"words": "AI: hi"}'),
        ("empty text", {"text": ""}),
        ("media marks", {"text": TEXT}),
        ("not a medium", {"text": TEXT, "image": 3}),
    ],
)
def test_a_line_that_is_no_example_is_told_with_its_number(write, reason, line):
    source = write({"text": "one"}, "", line, {"text": "two"})
    with pytest.raises(BadData, match=r"data\.jsonl:3: ") as error:
        source[1]
    assert error.value.reason == reason
    assert source[0]["text"] == "one" and source[2]["text"] == "two"


@pytest.mark.parametrize("lines", [(), ("", "  ", "")])
def test_an_empty_file_is_told(write, lines):
    with pytest.raises(UserError, match=r"data\.jsonl: empty; expected one JSON object a line"):
        write(*lines)


def test_lines_are_found_wherever_they_are_cut_into_chunks():
    rng = random.Random(0)
    pieces = ["", "{}", "  ", "\t", "a b", " x ", "\r", "{" * 9, "鸮", "\x0b"]
    for _ in range(500):
        lines = [rng.choice(pieces) + rng.choice(["", "\r"]) for _ in range(rng.randrange(9))]
        data = (rng.choice(["", "\ufeff"]) + "\n".join(lines)).encode()
        parts = scan_lines(io.BytesIO(data), chunk_size=rng.choice([1, 2, 3, 7, 1000]))
        rows = [row for part in parts for row in part.tolist()]
        found = [(data[start:end].decode(), line) for start, end, line in rows]
        assert found == [(line, i) for i, line in enumerate(lines, 1) if line.strip()], data


def test_parts_are_indices():
    for part in scan_lines(io.BytesIO(b"one\n\ntwo"), 2):
        assert part.dtype == np.int64 and part.shape[1:] == (3,)
