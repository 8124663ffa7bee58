"""Folders of media with texts beside them."""

import json
import pickle

import pytest
import source_files

from owl_jax.data.sources.folder import FolderSource
from owl_jax.errors import BadData, UserError


def _wheres(source, folder):
    return [source[i]["where"].removeprefix(f"{folder}/") for i in range(len(source))]


def test_files_of_one_key_are_a_record(tmp_path):
    folder = tmp_path / "samples"
    source_files.write_files(folder, source_files.samples(tmp_path))
    source = FolderSource(folder, folder)
    assert _wheres(source, folder) == ["a/01", "a/02", "b/03", "b/04"]
    assert source[0]["text"].endswith("\nHuman: <image>\nAI: A small owl.")
    assert source[0]["images"] == [folder / "a/01.jpg"]
    assert source[1]["images"] == [folder / "a/02.0.png", folder / "a/02.1.png"]
    assert source[2]["videos"] == [folder / "b/03.mp4"]
    assert source[3]["text"] == source_files.text()


def test_a_folder_of_frames_is_a_video(tmp_path):
    frame = source_files.picture(1)
    files = {
        "clip/f1.jpg": frame,
        "clip/f2.jpg": frame,
        "clip/.thumbs": b"",
        "clip.txt": "It flies.",
        "talk.v2/f1.jpg": frame,
        "talk.v2.json": json.dumps({"conversations": source_files.conversation("<video>")}),
        "talk.jpg": frame,
        "talk.txt": "A still.",
        "empty.txt": "Nothing.",
        "film.mp4": b"",
        "film/f1.jpg": frame,
        "film.txt": "This is of the file.",
    }
    source_files.write_files(tmp_path, files)
    (tmp_path / "empty").mkdir()
    source = FolderSource(tmp_path, tmp_path)
    videos = [source[i]["videos"] for i in range(5)]
    names = ("clip", "empty", "film.mp4", "talk.v2")
    clip, empty, film, talk = ([tmp_path / name] for name in names)
    assert videos == [clip, empty, film, [], talk]
    assert source[4]["where"] == f"{tmp_path}/talk.v2"
    with pytest.raises(BadData, match=r"film/f1: no \.txt"):
        source[5]
    assert source[0]["text"].endswith("\nHuman: <|video|>\nAI: It flies.")
    assert source[3]["images"] == [tmp_path / "talk.jpg"]
    assert source[4]["text"].endswith("AI: An owl.")


@pytest.mark.parametrize(
    "files",
    [
        {"clip/a.jpg": b"", "clip/a.txt": "inside"},  # samples of their own
        {"clip/a.jpg": b"", "clip/b/c.jpg": b"", "clip/b/c.txt": "inside"},
    ],
)
def test_a_folder_that_is_no_video_is_gone_through(tmp_path, files):
    source_files.write_files(tmp_path, {**files, "clip.json": json.dumps({"text": "It flies."})})
    source = FolderSource(tmp_path, tmp_path)
    assert source[0]["where"] == f"{tmp_path}/clip" and source[0]["videos"] == []
    assert source[len(source) - 1]["text"].endswith("AI: inside")


def test_natural_order_and_what_is_passed_over(tmp_path):
    names = ["10.txt", "9.txt", "b/1.txt", "B2/1.txt", "b10/1.txt", "z.txt"]
    media = {name.replace("txt", "jpg"): b"" for name in names}
    hidden = {
        ".x.txt": "",
        ".hidden/1.txt": "",
        "__MACOSX/1.txt": "",
        "notes.md": "",
        "._9.txt": "",
    }
    source_files.write_files(tmp_path, {**dict.fromkeys(names, "x"), **media, **hidden})
    source = FolderSource(tmp_path, tmp_path)
    assert _wheres(source, tmp_path) == ["9", "10", "z", "b/1", "B2/1", "b10/1"]


def test_names_keep_their_letters(tmp_path):
    source_files.write_files(tmp_path, {"Öwl 鸮.JPEG": b"", "Öwl 鸮.Txt": "x"})
    (tmp_path / b"\xff.jpg".decode("utf-8", "surrogateescape")).write_bytes(b"picture")
    (tmp_path / b"\xff.txt".decode("utf-8", "surrogateescape")).write_bytes(b"y")
    source = FolderSource(tmp_path, tmp_path)
    records = [source[0], source[1]]
    assert {record["images"][0].suffix for record in records} == {".JPEG", ".jpg"}
    assert all(record["images"][0].exists() for record in records)


def test_a_folder_named_from_here(tmp_path, monkeypatch):
    source_files.write_files(tmp_path / "samples", source_files.samples(tmp_path))
    monkeypatch.chdir(tmp_path)
    path = type(tmp_path)("samples")
    record = FolderSource(path, path)[0]
    assert record["where"] == "samples/a/01" and record["images"][0].exists()


def test_paths_in_a_json_are_below_the_root(tmp_path):
    values = json.dumps({"caption": "x", "image": "1.jpg"})
    source_files.write_files(tmp_path / "texts", {"a.json": values})
    source = FolderSource(tmp_path / "texts", tmp_path / "media")
    assert source[0]["images"] == [tmp_path / "media" / "1.jpg"]


def test_a_picture_without_a_text(tmp_path):
    source_files.write_files(tmp_path, {"a.jpg": b"", "b.jpg": b"", "b.txt": "b"})
    source = FolderSource(tmp_path, tmp_path)
    with pytest.raises(BadData, match=r"/a: no \.txt or \.json") as error:
        source[0]
    assert error.value.reason == "no text"
    assert source[1]["text"].endswith("AI: b")


def test_a_source_travels_to_workers_and_reads_late(tmp_path):
    source_files.write_files(tmp_path, {"a.jpg": b"", "a.txt": "before"})
    source = pickle.loads(pickle.dumps(FolderSource(tmp_path, tmp_path)))
    (tmp_path / "a.txt").write_text("after")
    assert source[0]["text"].endswith("after")
    (tmp_path / "a.txt").unlink()
    with pytest.raises(BadData, match="No such file"):
        source[0]


def test_what_is_no_such_folder(tmp_path):
    with pytest.raises(UserError, match=r"no samples; expected pictures or videos"):
        FolderSource(tmp_path, tmp_path)
    with pytest.raises(UserError, match=r"none: cannot be read \(No such file"):
        FolderSource(tmp_path / "none", tmp_path)
