"""A record with far too much text is bad data in every kind of file, and is not read for that."""

import io
import json
import tarfile
import tracemalloc

import pytest

from owl_jax.data.sources.detect import open_source
from owl_jax.data.sources.record import LARGEST_TEXT
from owl_jax.errors import BadData

GOOD = {"text": "Human: What?\nAI: An owl."}


def with_hole(path, before, after, hole=LARGEST_TEXT):
    """Writes a file of which most are zeros that take no room on the disk."""
    with path.open("wb") as file:
        file.write(before)
        file.seek(hole, io.SEEK_CUR)
        file.write(after)


def json_lines(folder, good, hole):
    before = b"\n" + good + b'\n{"text": "'
    with_hole(folder / "data.jsonl", before, b'"}\n' + good + b"\n", hole)
    return folder / "data.jsonl", ":3"


def json_array(folder, good, hole):
    before = b"[" + good + b',\n\n{"text": "'
    with_hole(folder / "data.json", before, b'"},\n' + good + b"]", hole)
    return folder / "data.json", ":3"


def csv(folder, good, hole):
    row = b'"Human: What?\nAI: An owl."\n'
    with_hole(folder / "data.csv", b"text\n" + row, b"\n" + row, hole)
    return folder / "data.csv", ":4"


def quoted_csv(folder, good, hole):
    """A row of several lines, each within the bound."""
    row = b"Human: What? AI: An owl.,\n"
    line = b"x" * 1000 + b"\n"
    cell = b'"' + line * ((hole if hole < 1e6 else hole * 4 // 10) // len(line)) + b'"'
    data = b"text,more,rest\n" + row.replace(b",", b",,") + b",".join([cell] * 3) + b"\n"
    (folder / "data.csv").write_bytes(data + row.replace(b",", b",,"))
    return folder / "data.csv", ":3"


def tar(folder, good, hole):
    with tarfile.open(folder / "data.tar", "w") as file:
        for name, size in ("a", len(good)), ("b", hole + 1), ("c", len(good)):
            header = tarfile.TarInfo(f"{name}.json")
            header.size = size
            file.addfile(header, io.BytesIO(good) if name != "b" else io.BytesIO(bytes(size)))
    return folder / "data.tar", ":b"


def directory(folder, good, hole):
    (folder / "samples").mkdir()
    for name in "ac":
        (folder / "samples" / f"{name}.txt").write_text("An owl.")
        (folder / "samples" / f"{name}.jpg").write_bytes(b"x")
    with_hole(folder / "samples" / "b.txt", b"", b"x", hole)
    (folder / "samples" / "b.jpg").write_bytes(b"x")
    return folder / "samples", "/b"


def parquet(folder, good, hole):
    import pyarrow
    import pyarrow.parquet

    text = json.loads(good)["text"]
    table = pyarrow.table({"text": [text, "x" * (hole + 1), text]})
    pyarrow.parquet.write_table(table, folder / "data.parquet")
    return folder / "data.parquet", ":1"


@pytest.mark.parametrize(
    "write", [json_lines, json_array, csv, quoted_csv, tar, directory, parquet]
)
def test_it_is_dropped_and_named(tmp_path, write):
    path, place = write(tmp_path, json.dumps(GOOD).encode(), LARGEST_TEXT)
    source = open_source(str(path), index_dir=tmp_path / "index")
    assert len(source) == 3
    assert "An owl." in source[0]["text"] and "An owl." in source[2]["text"]
    tracemalloc.start()
    with pytest.raises(BadData, match=r"MiB of text; the limit is 64 MiB: put") as error:
        source[1]
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert error.value.reason == "oversized record"
    assert source.where(1).endswith(place) and str(error.value).startswith(source.where(1))
    if write is not parquet:  # whose rows lie in memory that is mapped
        assert peak < 1 << 20


@pytest.mark.parametrize("write", [json_lines, tar])
def test_what_is_just_within_the_bound_is_read(tmp_path, write):
    """It is dropped for what it is: zeros, no JSON and no words."""
    path, _ = write(tmp_path, json.dumps(GOOD).encode(), 5000)
    source = open_source(str(path), index_dir=tmp_path / "index")
    with pytest.raises(BadData) as error:
        source[1]
    assert error.value.reason != "oversized record"
