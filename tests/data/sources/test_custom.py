"""Sources of one's own: objects and Python files, what tells them apart, what is refused."""

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from owl_jax.data.sources.custom import CustomRecords, CustomSource, load_custom, python_file
from owl_jax.data.sources.dataset_hash import fingerprint
from owl_jax.data.sources.detect import is_missing, open_source
from owl_jax.errors import BadData, UserError


@dataclasses.dataclass(frozen=True)
class Greys(CustomSource):
    """Grey pictures, each with its tone as the caption."""

    name = "greys"
    size: int = 4
    step: int = 1

    def open(self):
        return [
            {"image": np.full((2, 2, 3), n * self.step % 256, np.uint8), "caption": f"tone {n}"}
            for n in range(self.size)
        ]


@dataclasses.dataclass(frozen=True)
class Pages(CustomSource):
    """Text files of a folder, named by number; `folder` is not part of the content."""

    name = "pages"
    folder: Path
    version: Any = 1

    def content(self):
        return {"version": self.version}

    def open(self):
        return self

    def __len__(self):
        return 3

    def __getitem__(self, index):
        if index == 1:
            raise BadData("empty page", "nothing is written on it")
        answer = (self.folder / f"{index}.txt").read_text()
        return {"question": "What is written?", "answer": answer, "image": "a.png"}


SCRIPT = """
import dataclasses
from owl_jax.data.sources.custom import CustomSource

@dataclasses.dataclass(frozen=True)
class Sums(CustomSource):
    name = "sums"
    count: int

    def open(self):
        return [{"question": f"{n} + 1?", "answer": n + 1} for n in range(self.count)]

def get_source(count="7"):
    return Sums(int(count))
"""


def test_examples_are_read_as_lines_of_a_file_are():
    source = open_source(Greys())
    record = source[3]
    assert len(source) == 4 and source.where(3) == record["where"] == "greys:3"
    assert record["text"].endswith("Human: <image>\nAI: tone 3")
    assert np.asarray(record["images"][0]).tolist() == [[[3] * 3] * 2] * 2


def test_media_are_relative_to_the_media_root(tmp_path):
    (tmp_path / "0.txt").write_text("Owls.")
    record = open_source(Pages(tmp_path), media_root=str(tmp_path / "media"))[0]
    assert record["images"] == [tmp_path / "media" / "a.png"]
    assert open_source(Pages(tmp_path))[0]["images"] == [Path("a.png")]


def test_an_example_that_cannot_be_read_is_dropped_by_its_name(tmp_path):
    source = open_source(Pages(tmp_path))
    for index, reason, message in (
        (1, "empty page", "pages:1: nothing is written on it"),
        (2, "missing file", f"pages:2: {tmp_path / '2.txt'}: no such file"),
    ):
        with pytest.raises(BadData) as error:
            source[index]
        assert (error.value.reason, str(error.value)) == (reason, message)


def test_content_and_examples_tell_sources_apart(tmp_path):
    same = fingerprint(open_source(Greys(1000)))
    assert same == fingerprint(open_source(Greys(1000)))
    assert same != fingerprint(open_source(Greys(1001)))
    assert same != fingerprint(open_source(Greys(1000, step=2)))
    # A name that it had by chance, and examples that no field tells of.
    named = type("Named", (Greys,), {"name": "grays"})
    assert same != fingerprint(open_source(named(1000)))
    other = type("Other", (Greys,), {"open": lambda self: [{"text": "Human: Hi!\nAI: Ho."}] * 1000})
    assert same != fingerprint(open_source(other(1000)))


def test_a_content_of_its_own_decides(tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    for folder in (one, two):
        folder.mkdir()
        for number in range(3):
            (folder / f"{number}.txt").write_text("Owls.")
    assert fingerprint(open_source(Pages(one))) == fingerprint(open_source(Pages(two)))
    assert fingerprint(open_source(Pages(one))) != fingerprint(open_source(Pages(one, 2)))
    assert json.loads(CustomRecords(Pages(one), one).content()) == ["pages", {"version": 1}]
    with pytest.raises(UserError, match=r"source pages: its content\(\) cannot be written as JSON"):
        fingerprint(open_source(Pages(one, object())))


def test_a_python_file_is_a_source(tmp_path, monkeypatch):
    (tmp_path / "sums.py").write_text(SCRIPT)
    whole = open_source(f"{tmp_path}/sums.py")
    few = open_source(f"{tmp_path}/sums.py:3")
    assert (len(whole), len(few), few.where(2)) == (7, 3, "sums:2")
    assert few[2]["text"].endswith("Human: 2 + 1?\nAI: 3")
    assert fingerprint(few) == fingerprint(open_source(f"{tmp_path}/sums.py:3"))
    monkeypatch.chdir(tmp_path)
    assert len(open_source("sums.py:4")) == 4
    assert not is_missing("sums.py:4") and is_missing("other.py:4")
    with pytest.raises(
        UserError, match=r"other\.py:4: no such file or directory; .* get_source\(\)"
    ):
        open_source("other.py:4")


def test_paths_in_its_examples_are_relative_to_the_file(tmp_path):
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    script = SCRIPT.replace('"answer": n + 1', '"answer": n + 1, "image": "a.png"')
    (tmp_path / "sums.py").write_text(script)
    assert open_source(f"{tmp_path}/sums.py")[0]["images"] == [tmp_path / "a.png"]


@pytest.mark.parametrize(
    ("spec", "found"),
    [("a.py", ("a.py", "")), ("a.py:b.py:c", ("a.py", "b.py:c")), ("a.pyc", None), ("b.py", None)],
)
def test_what_names_a_python_file(spec, found, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a.py", "a.pyc"):
        Path(name).touch()
    assert python_file(spec) == (found and (Path(found[0]), found[1]))


@pytest.mark.parametrize(
    ("script", "message"),
    [
        (
            "x = 1",
            r"a\.py must define a get_source\(\) that returns .*CustomSource; found NoneType",
        ),
        ("def get_source(): return []", "CustomSource; found list"),
        ("def get_source(:", r"a\.py, line 1: invalid syntax"),
        ("def get_source():\n    return 1 / 0", r"source file .*a\.py, line 2: ZeroDivisionError"),
        ("import nothing_of_this_name", r"a\.py, line 1: ModuleNotFoundError"),
        (SCRIPT.replace("return Sums", "return 1 or Sums"), "found int"),
    ],
)
def test_files_that_give_no_source(script, message, tmp_path):
    (tmp_path / "a.py").write_text(script)
    with pytest.raises(UserError, match=message) as error:
        load_custom(tmp_path / "a.py", "")
    assert "\n" not in str(error.value)


def test_a_source_needs_a_name_examples_and_a_content():
    class Bare(CustomSource):
        def open(self):
            return [{"text": "Human: Hi!\nAI: Ho."}]

    with pytest.raises(UserError, match="of class Bare has no name"):
        open_source(Bare())
    with pytest.raises(UserError, match="greys has no examples"):
        open_source(Greys(0))
    bare = Bare()
    bare.name = "bare"
    with pytest.raises(UserError, match=r"source bare: Bare is not a dataclass; .* content\(\)"):
        fingerprint(open_source(bare))


def test_a_field_may_be_its_name():
    @dataclasses.dataclass(frozen=True)
    class Digests(CustomSource):
        name: str

        def open(self):
            return [{"question": self.name, "answer": hashlib.md5(b"owl").hexdigest()}]

    assert open_source(Digests("md5")).where(0) == "md5:0"
