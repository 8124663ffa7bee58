"""ArrayRecord files, alone and as a directory that prepare wrote."""

import json
import pickle
import re
import resource
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import source_files

from owl_jax.data.shards.manifest import JOURNAL_FILE, MANIFEST_FILE, Manifest, Shard
from owl_jax.data.sources import array_record
from owl_jax.data.sources.array_record import ArrayRecordSource, open_shards
from owl_jax.errors import BadData, UserError

IMAGE = source_files.picture(1)


def _entry(number):
    return {"text": source_files.text("<image>"), "images": [IMAGE], "where": f"x:{number}"}


@pytest.fixture
def shards(tmp_path):
    """A directory of two shards with three and two records."""
    listed = []
    for n, numbers in enumerate([(0, 1, 2), (3, 4)]):
        path = tmp_path / "shards" / f"data-{n}.array_record"
        path.parent.mkdir(exist_ok=True)
        source_files.write_array_record(path, [_entry(number) for number in numbers])
        listed.append(Shard(path.name, len(numbers), path.stat().st_size, "0"))
    manifest = Manifest("x", "12ef", {}, {"no text": 2}, listed)
    (tmp_path / "shards" / MANIFEST_FILE).write_text(manifest.to_json())
    return tmp_path / "shards"


def test_records_of_every_form(tmp_path):
    clip = source_files.movie(tmp_path / "x.mp4")
    entries = [
        {"text": source_files.text("<image>", "<|video|>", "<|video|>"), "images": [IMAGE],
         "videos": [clip, [IMAGE, IMAGE]], "task_type": "vqa", "where": "data.jsonl:7"},
        {"text": source_files.text()},
        {"conversations": source_files.conversation("<image>"), "image": IMAGE, "id": 3},
    ]  # fmt: skip
    path = source_files.write_array_record(tmp_path / "x.array_record", entries)
    source = ArrayRecordSource([path], tmp_path)
    assert source[0] == {**entries[0]}
    assert source[1]["where"] == f"{path}:1" and source[1]["images"] == []
    assert source[2]["images"] == [IMAGE] and "Human: <image>" in source[2]["text"]


def test_several_files_are_one_after_another(shards):
    source = ArrayRecordSource(sorted(shards.glob("*.array_record")), shards)
    assert [source[i]["where"] for i in range(len(source))] == [f"x:{n}" for n in range(5)]


def test_a_directory_of_prepare(shards):
    source = open_shards(shards)
    assert [source[i]["where"] for i in (4, 0, 2, 3, 1)] == ["x:4", "x:0", "x:2", "x:3", "x:1"]
    with pytest.raises(IndexError):
        source[5]


def test_a_source_travels_to_workers_and_serves_threads(shards):
    source = open_shards(shards)
    assert source[4]["where"] == "x:4"  # with a file open
    again = pickle.loads(pickle.dumps(source))
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda i: again[i % 5]["where"], range(500)))
    assert found == [f"x:{i % 5}" for i in range(500)]


def test_more_files_than_can_be_open(tmp_path, monkeypatch):
    monkeypatch.setattr(array_record, "_MOST_OPEN_READERS", 5)
    paths = [tmp_path / f"{n}.array_record" for n in range(80)]
    for n, path in enumerate(paths):
        source_files.write_array_record(path, [_entry(n)])
    source = ArrayRecordSource(paths, tmp_path)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (60, limits[1]))
    try:
        with ThreadPoolExecutor(4) as pool:
            found = list(pool.map(lambda i: source[i % 80]["where"], range(160)))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert found == [f"x:{i % 80}" for i in range(160)]


def test_a_damaged_record_is_named(tmp_path):
    noise = np.random.default_rng(0).bytes(200_000)  # is not compressed
    entries = [{"text": source_files.text(), "x": noise, "where": f"x:{n}"} for n in range(3)]
    path = source_files.write_array_record(tmp_path / "x.array_record", entries)
    data = bytearray(path.read_bytes())
    places = [match.start() for match in re.finditer(re.escape(noise[:1000]), bytes(data))]
    assert len(places) == 3
    data[places[1] + 500] ^= 1
    path.write_bytes(data)
    source = ArrayRecordSource([path], tmp_path)
    with pytest.raises(BadData, match=r"x\.array_record:1: .*hash mismatch") as error:
        source[1]
    assert error.value.reason == "damaged record"
    assert [source[i]["where"] for i in (0, 2)] == ["x:0", "x:2"]


def test_what_is_no_record(tmp_path):
    entries = [b"\xc1", b"", {"text": "AI: x", "images": ["no.jpg"]}, {"words": "x"}, b"\x93\1\2\3"]
    path = source_files.write_array_record(tmp_path / "x.array_record", entries)
    source = ArrayRecordSource([path], tmp_path)
    reasons = []
    for index in range(len(source)):
        with pytest.raises(BadData, match=rf"x\.array_record:{index}: ") as error:
            source[index]
        reasons.append(error.value.reason)
    assert reasons == ["malformed record"] * 2 + ["media marks"] + ["not an example"] * 2


def test_what_is_no_array_record(tmp_path):
    path = tmp_path / "x.array_record"
    with pytest.raises(UserError, match=r"x\.array_record: no such file"):
        ArrayRecordSource([path], tmp_path)
    path.write_text("words " * 100_000)
    with pytest.raises(UserError, match="not an ArrayRecord file, or cut short"):
        ArrayRecordSource([path], tmp_path)
    source_files.write_array_record(path, [_entry(0)])
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(UserError, match="not an ArrayRecord file, or cut short"):
        ArrayRecordSource([path], tmp_path)
    source_files.write_array_record(path, [])
    with pytest.raises(UserError, match="no records"):
        ArrayRecordSource([path], tmp_path)


def test_a_directory_that_is_not_whole(shards):
    manifest = json.loads((shards / MANIFEST_FILE).read_text())
    first = shards / "data-0.array_record"
    first.write_bytes(first.read_bytes()[:-100])
    with pytest.raises(UserError, match=r"data-0\.array_record: \d+ bytes, manifest\.json says"):
        open_shards(shards)
    first.unlink()
    with pytest.raises(
        UserError, match=r"data-0\.array_record: missing, although manifest\.json lists it"
    ):
        open_shards(shards)
    (shards / MANIFEST_FILE).write_text(json.dumps({**manifest, "version": 99}))
    with pytest.raises(UserError, match=r'"owl_jax shards" of version 99; this owl_jax reads'):
        open_shards(shards)
    (shards / MANIFEST_FILE).unlink()
    (shards / JOURNAL_FILE).write_text("")
    with pytest.raises(UserError, match=r"not finished: run the same command again"):
        open_shards(shards)
