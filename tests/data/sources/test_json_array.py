"""JSON arrays: their elements are found as a JSON parser finds them, also in a broken file."""

import io
import json
import random

import numpy as np
import pytest

from owl_jax.data.sources.json_array import JsonArraySource, scan_array
from owl_jax.errors import BadData, UserError
from owl_jax.text.turns import SYSTEM

EXAMPLES = [
    {
        "id": str(number),
        "image": f"{number}.jpg",
        "conversations": [
            {"from": "human", "value": "<image>\nWhat?"},
            {"from": "gpt", "value": f'"Owl" [{number}], {{awake}} \\ 鸮'},
        ],
    }
    for number in range(4)
]


@pytest.fixture
def write(tmp_path):
    def write(data):
        data = data.encode() if isinstance(data, str) else data
        (tmp_path / "data.json").write_bytes(data)
        return JsonArraySource(tmp_path / "data.json", tmp_path / "media", tmp_path / "index")

    return write


def reason_and_place(source, number):
    with pytest.raises(BadData) as error:
        source[number]
    return error.value.reason, str(error.value).split("data.json:")[1].split(":")[0]


@pytest.mark.parametrize("indent", [None, 1])
@pytest.mark.parametrize("head", ["", "\ufeff", " \n"])
def test_an_element_is_a_record_with_its_line(write, tmp_path, indent, head):
    source = write(head + json.dumps(EXAMPLES, indent=indent, ensure_ascii=False) + "\n")
    assert len(source) == 4
    lines_before = head.count("\n") + 2 if indent else head.count("\n") + 1
    lines_each = 14 if indent else 0
    for number in (2, 0, 3, 1):
        line = lines_before + lines_each * number
        assert source[number] == {
            "text": f"{SYSTEM}\nHuman: <image>\nHuman: What?\nAI: "
            f'"Owl" [{number}], {{awake}} \\ 鸮',
            "images": [tmp_path / "media" / f"{number}.jpg"],
            "videos": [],
            "task_type": "",
            "where": f"{tmp_path}/data.json:{line}" + ("" if indent else f"[{number}]"),
        }


def test_every_element_has_its_own_verdict(write):
    source = write(
        '[{"text": "one"},\n 3, "words",\n [{"text": "x"}], {"text": "two"\n, "text" "x"},'
        '\n{"text": "four"} {"text": "five"}, {"a": [}],\n {"text": "six"}, ]'
    )
    assert [source[number]["text"] for number in (0, 7)] == ["one", "six"]
    assert [reason_and_place(source, number) for number in (1, 2, 3, 4, 5, 6, 8)] == [
        ("not an example", "2[1]"),
        ("not an example", "2[2]"),
        ("not an example", "3[3]"),
        ("malformed record", "3[4]"),
        ("malformed record", "5[5]"),
        ("malformed record", "5[6]"),
        ("malformed record", "6[8]"),
    ]


def test_a_cut_file_keeps_what_stands_before_the_cut(tmp_path):
    path = tmp_path / "data.json"
    data = json.dumps(EXAMPLES, indent=1, ensure_ascii=False).encode()
    ends = [index for index in range(len(data)) if data[:index].endswith(b"\n }")]
    assert len(ends) == 4
    for cut in range(1, len(data)):
        path.write_bytes(data[:cut])
        source = JsonArraySource(path, tmp_path)
        whole = sum(end <= cut for end in ends)
        assert len(source) == whole + 1
        for number in range(whole):
            assert source[number]["images"][0].name == f"{number}.jpg"
        reason, line = reason_and_place(source, whole)
        assert reason == "cut short"
        assert int(line) <= data[:cut].count(b"\n") + 1


def test_the_cut_element_is_named_by_its_line(write):
    source = write('[\n{"text": "one"},\n\n{"text": \n"tw')
    assert source[0]["text"] == "one"
    assert reason_and_place(source, 1) == ("cut short", "4")


@pytest.mark.parametrize(
    ("data", "whole", "line"),
    [
        ('[{"text": "one"}, {"text": "two}, {"text": "three"},\n {"text": "four"}]', 1, "1[1]"),
        ('[{"text": "one"},\n {"text": [["two"}, {"text": "three"}]', 1, "2"),
        ('[{"text": "one"}]\n [{"text": "two"}]', 1, "2"),
        ('[{"text": "one"}] ]', 1, "1[1]"),
        ('[{"text": "one"}\n', 1, "2"),
        ('[{"text": "one"}, 12', 1, "1[1]"),
        ('[{"text": "one"}, "\\', 1, "1[1]"),
        ("[", 0, "1"),
        ("\n[ \n", 0, "3"),
    ],
)
def test_what_cannot_be_told_apart_is_one_bad_record(write, data, whole, line):
    source = write(data)
    assert len(source) == whole + 1
    assert all(source[number]["text"] == "one" for number in range(whole))
    assert reason_and_place(source, whole) == ("cut short", line)


@pytest.mark.parametrize("data", ["", " \n", "[]", "[ \n ]\n", "\ufeff[]"])
def test_an_empty_file_or_array_is_told(write, data):
    with pytest.raises(UserError, match=r"data\.json: empty; expected a JSON array of objects"):
        write(data)


@pytest.mark.parametrize(
    ("data", "first"),
    [('{"text": "one"}\n', "'{'"), ("words", "'w'"), (b"\xff\xfe[", r"'\\xff'"), ("\n\n1", "'1'")],
)
def test_a_file_that_is_no_array_is_told(write, data, first):
    with pytest.raises(UserError, match=rf"data\.json: begins with {first}; expected one JSON arr"):
        write(data)


class RandomJson:
    """Arrays of values full of the marks that delimit values, and the lines of their elements."""

    def __init__(self, seed):
        self.rng = random.Random(seed)

    def text(self):
        marks = ['"', "\\", ",", "[", "]", "{", "}", "\n", "a", "鸮", ":", " "]
        return "".join(self.rng.choices(marks, k=self.rng.randrange(8)))

    def value(self, depth=0):
        kind = self.rng.randrange(5 if depth < 3 else 3)
        if kind == 0:
            return self.rng.choice([1, True, None, -1.5])
        if kind < 3:
            return self.text()
        values = [self.value(depth + 1) for _ in range(self.rng.randrange(4))]
        return values if kind == 3 else {self.text(): value for value in values}

    def blanks(self):
        return "".join(self.rng.choices(" \n\t\r", k=self.rng.randrange(3)))

    def array(self):
        """(text, its elements, the line on which each begins)."""
        elements = [self.value() for _ in range(self.rng.randrange(1, 6))]
        text, lines = self.blanks() + "[", []
        for number, element in enumerate(elements):
            text += (self.blanks() + ",") * bool(number) + self.blanks()
            lines.append(text.count("\n") + 1)
            indent, ascii_only = self.rng.choice([None, 2]), self.rng.random() < 0.5
            text += json.dumps(element, indent=indent, ensure_ascii=ascii_only)
        return text + self.blanks() + "]" + self.blanks(), elements, lines


def test_elements_are_those_of_a_json_parser_wherever_the_file_is_cut_into_chunks():
    make = RandomJson(0)
    for _ in range(500):
        text, elements, lines = make.array()
        data = text.encode()
        chunk_size = make.rng.choice([1, 2, 3, 7, 1000])
        found = np.concatenate(list(scan_array(io.BytesIO(data), chunk_size)))
        assert found.dtype == np.int64
        assert [json.loads(data[start:end]) for start, end, _ in found] == elements, text
        for line, found_line, element in zip(lines, found[:, 2], elements, strict=True):
            # Of a number, which is no example, the line is that of what follows it.
            assert found_line == line or not isinstance(element, str | list | dict), text
