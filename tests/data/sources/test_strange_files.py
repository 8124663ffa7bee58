"""Names and files of a strange kind: one record is dropped, a source is one line, nothing hangs."""

import json
import os
import socket
from pathlib import Path

import forked
import pytest
import source_files

from owl_jax.data.shards.payload import Reencoding, pack
from owl_jax.data.sources.detect import open_source
from owl_jax.data.sources.record import FilePart
from owl_jax.errors import BadData, UserError
from owl_jax.media.image import load_image
from owl_jax.media.video import load_frames

TOO_LONG = "x" * 300
# What is there, and the reason to drop a record that names it.
MEDIA = {
    "fifo": "unreadable file",
    "socket": "unreadable file",
    "device": "unreadable file",
    "circle": "unreadable file",
    TOO_LONG: "missing file",
    f"{TOO_LONG}/a.jpg": "missing file",
    "file/inside": "missing file",
    "half \ud800": "missing file",
    "zero \0": "missing file",
    "nowhere \udc80": "missing file",
}


@pytest.fixture
def folder(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket"))
    (tmp_path / "device").symlink_to("/dev/zero")
    (tmp_path / "circle").symlink_to("circle")
    (tmp_path / "file").write_bytes(source_files.picture(1))
    return tmp_path


def record(image=None, video=None):
    media = {"images": [image] if image else [], "videos": [video] if video else []}
    return {"text": "x", "task_type": "", "where": "data.jsonl:3", **media}


@pytest.mark.parametrize("name", MEDIA)
def test_a_medium_of_a_strange_kind_is_bad_data(folder, name):
    path = folder / name
    attempts = [
        lambda: load_image(path, "data.jsonl:3"),
        lambda: load_frames(path, 2, "data.jsonl:3"),
        lambda: load_frames([path], 2, "data.jsonl:3"),
        lambda: pack(record(image=path)),
        lambda: pack(record(video=path), Reencoding(90)),
    ]
    for attempt in attempts:
        with pytest.raises(BadData, match=r"^data\.jsonl:3: ") as error:
            attempt()
        assert error.value.reason == MEDIA[name]
        assert "\n" not in str(error.value)
    with pytest.raises(BadData) as error:
        FilePart(path, 0, 10, "a.jpg").read()
    assert error.value.reason == MEDIA[name]


def test_a_name_that_is_no_text_is_a_name_all_the_same(folder):
    movie = source_files.movie(folder / "a.mp4")
    odd = Path(os.fsdecode(os.fsencode(folder) + b"/\x80%d.mp4"))
    odd.write_bytes(movie)
    assert [frame.size for frame in load_frames(odd, 2)] == [
        frame.size for frame in load_frames(movie, 2)
    ]


def test_a_link_to_a_picture_is_a_picture(folder):
    (folder / "link").symlink_to("file")
    assert load_image(folder / "link").size == load_image(folder / "file").size


SUFFIXES = ["jsonl", "json", "csv", "tar", "array_record", "parquet"]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_source_of_a_strange_kind_is_told_in_one_line(folder, suffix):
    for name in ("fifo", "device", "circle"):
        path = folder / f"{name}.{suffix}"
        path.symlink_to(name)
        for spec in (path, f"{folder}/{name}.*"):
            with pytest.raises(UserError, match=f"{name}.{suffix}: ") as error:
                open_source(str(spec))
            assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["state.json", "manifest.json", "progress.jsonl"])
def test_a_directory_whose_description_is_a_fifo_does_not_hang(folder, name):
    directory = folder / "data"
    directory.mkdir()
    os.mkfifo(directory / name)
    try:
        assert len(open_source(str(directory))) == 1  # a text alone, which is bad data
    except UserError as error:
        assert str(directory) in str(error)


def test_texts_of_a_strange_kind_are_bad_data(folder):
    samples = folder / "samples"
    samples.mkdir()
    for key in ("a", "b", "c"):
        (samples / f"{key}.jpg").write_bytes(source_files.picture(1))
    (samples / "a.txt").write_text("An owl.")
    os.mkfifo(samples / "b.txt")
    (samples / "c.json").symlink_to("c.json")
    (samples / "again").symlink_to(".")
    source = open_source(str(samples))
    assert len(source) == 3  # not once more for each time around the circle
    assert source[0]["text"].endswith("An owl.")
    for index in (1, 2):
        with pytest.raises(BadData, match="cannot be read") as error:
            source[index]
        assert error.value.reason == "unreadable file"


def test_a_picture_that_is_not_read_is_told_from_a_text_alone(tmp_path):
    for name in ("a.heic", "b.heic", "b.jpg"):
        (tmp_path / name).write_bytes(source_files.picture(1))
    for name in ("a.txt", "b.txt", "c.txt"):
        (tmp_path / name).write_text("An owl.")
    source = open_source(str(tmp_path))
    for index, reason in ((0, "unsupported format"), (2, "no media")):
        with pytest.raises(BadData) as error:
            source[index]
        assert error.value.reason == reason
    assert [path.name for path in source[1]["images"]] == ["b.jpg"]


def test_prepare_goes_on_behind_them(folder):
    names = ["file", *(name for name in MEDIA if name.isascii() and "\0" not in name)]
    examples = [{"text": "Human: <image>\nAI: x", "image": name} for name in names]
    examples += [{"text": "Human: <|video|>\nAI: x", "video": name} for name in names[1:]]
    (folder / "data.jsonl").write_text("\n".join(map(json.dumps, examples)))
    places = f"--source={folder / 'data.jsonl'}", f"--target={folder / 'shards'}"
    done = forked.run("-m", "owl_jax.prepare", *places, "--max_dropped=1")
    assert done.returncode == 0, done.stderr
    skipped = (folder / "shards" / "skipped.jsonl").read_text().splitlines()
    reasons = [json.loads(line)["reason"] for line in skipped]
    assert reasons == [MEDIA[name] for name in names[1:]] * 2
