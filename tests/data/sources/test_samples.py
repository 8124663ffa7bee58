"""Files that are one sample by their names."""

import io
import json
import tarfile

import pytest
import source_files

from owl_jax.data.sources.detect import open_source
from owl_jax.data.sources.samples import (
    extension_of,
    is_sample_file,
    keys_of,
    record_of_files,
)
from owl_jax.errors import BadData
from owl_jax.media.video import frame_files, natural_key


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("01.jpg", True),
        ("./train/01.jpg", True),
        ("train.v1/01.0.JPG", True),
        ("01.json", True),
        ("at 10.15.30.mp4", True),
        ("01.cls", False),
        ("jpg", False),
        ("", False),
        (".01.jpg", False),
        ("train/._01.jpg", False),
        (".cache/01.jpg", False),
        ("__MACOSX/01.jpg", False),
    ],
)
def test_what_may_belong_to_a_sample(path, expected):
    assert is_sample_file(path) == expected


@pytest.mark.parametrize(
    "samples",
    [
        {"01": ["jpg", "txt"], "02": ["png", "json", "txt"]},
        {"train.v1/01": ["0.JPG", "1.jpg", "json"]},
        {"2205.00001": ["png", "txt"], "2205.00002": ["png", "txt"]},
        {"at 10.15.30": ["png", "txt"], "at 10.15.31": ["png", "txt"]},
        {"Dr. A": ["jpg", "txt"], "Dr. B": ["jpg", "txt"], "Dr": ["txt"]},
        {"Dr. A": ["jpg"], "Dr. B": ["jpg"], "Dr": ["jpg", "txt"]},
        {"v1.0": ["mp4", "txt"], "v1": ["mp4", "txt"], "v1.0.1": ["mp4", "txt"]},
        {"a.b": ["left.png", "right.png", "json"]},
        {"2205.00001": ["png"], "2205.00002": ["png"]},  # without texts each is alone
    ],
)
def test_dots_are_a_part_of_names_and_nothing_is_merged(samples):
    paths = [f"{key}.{extension}" for key, names in samples.items() for extension in names]
    for order in (paths, paths[::-1]):
        found = {}
        for path, key in zip(order, keys_of(order), strict=True):
            found.setdefault(key, []).append(extension_of(path, key))
        assert {key: sorted(names) for key, names in found.items()} == {
            key: sorted(names) for key, names in samples.items()
        }


def test_natural_order():
    names = ["f10", "f2", "F1", "g", "", "2.jpg", "10.jpg", "a1b10", "a1b9"]
    ordered = ["", "2.jpg", "10.jpg", "a1b9", "a1b10", "F1", "f2", "f10", "g"]
    assert sorted(names, key=natural_key) == ordered


@pytest.fixture
def record(tmp_path):
    def record(files, **kwargs):
        source_files.write_files(tmp_path, files)
        paths = {name.partition(".")[2]: tmp_path / name for name in files}
        return record_of_files(paths, "here:1", tmp_path, **kwargs)

    return record


def test_a_caption_is_the_answer_to_its_picture(record, tmp_path):
    found = record({"a.JPG": b"", "a.txt": "\ufeff An öwl.\r\n"})
    assert found["text"].endswith("\nHuman: <image>\nAI: An öwl.")
    assert found["images"] == [tmp_path / "a.JPG"]
    assert (found["videos"], found["where"]) == ([], "here:1")


def test_several_media_come_in_natural_order(record, tmp_path):
    conversation = source_files.conversation("<image>" * 3)
    files = {f"a.{n}.jpg": b"" for n in (10, 9, 1)}
    found = record({**files, "a.json": json.dumps({"conversations": conversation})})
    assert found["images"] == [tmp_path / f"a.{n}.jpg" for n in (1, 9, 10)]


def test_conversations_come_before_the_caption(record):
    values = {"conversations": source_files.conversation("<image>"), "caption": "Not this."}
    found = record({"a.jpg": b"", "a.txt": "Nor this.", "a.json": json.dumps(values)})
    assert found["text"].endswith("AI: An owl.")


def test_a_json_may_hold_the_caption_beside_other_things(record):
    values = {"caption": "Right.", "width": 3, "exif": "{}", "error_message": None}
    assert record({"a.jpg": b"", "a.json": json.dumps(values)})["text"].endswith("AI: Right.")


def test_media_of_the_sample_come_before_those_that_its_json_names(record, tmp_path):
    values = {"caption": "x", "images": ["/elsewhere/1.jpg"]}
    found = record({"a.jpg": b"", "a.json": json.dumps(values)})
    assert found["images"] == [tmp_path / "a.jpg"]
    found = record({"a.json": json.dumps(values)})
    assert [str(path) for path in found["images"]] == ["/elsewhere/1.jpg"]


def test_frames_are_a_video(record, tmp_path):
    found = record({"a.txt": "It flies."}, frames=tmp_path / "a")
    assert found["videos"] == [tmp_path / "a"] and "<|video|>" in found["text"]


@pytest.mark.parametrize(
    ("files", "reason", "message"),
    [
        ({"a.jpg": b""}, "no text", r"here:1: no \.txt or \.json"),
        ({"README.txt": "x"}, "no media", "here:1: a caption, but no picture"),
        ({"a.jpg": b"", "a.txt": "x", "a.1.txt": "y"}, "double text", r"2 \.txt files"),
        ({"a.jpg": b"", "a.txt": b"\xff\xfe"}, "invalid UTF-8", "here:1: the .txt is not UTF-8"),
        ({"a.jpg": b"", "a.json": '{"caption": "cut'}, "malformed record", "is not JSON"),
        (
            {"a.jpg": b"", "a.json": b'{"caption": "\xff"}'},
            "invalid UTF-8",
            "here:1: the .json is not UTF-8",
        ),
        ({"a.jpg": b"", "a.json": "[1]"}, "malformed record", "holds a list"),
        ({"a.jpg": b"", "a.json": '{"width": 3}'}, "not an example", "here:1: .*width"),
        ({"a.jpg": b"", "a.txt": " \n"}, "empty text", "here:1"),
    ],
)
def test_what_is_no_sample(record, files, reason, message):
    with pytest.raises(BadData, match=message) as error:
        record(files)
    assert error.value.reason == reason


def test_a_text_that_vanished(tmp_path):
    with pytest.raises(BadData, match=r"here:1: the \.txt cannot be read \(No such file") as error:
        record_of_files({"txt": tmp_path / "a.txt"}, "here:1", tmp_path)
    assert error.value.reason == "missing file"


def test_frames_are_those_that_the_video_loader_takes(tmp_path):
    names = ["f10.png", "f9.PNG", "F1.jpg"]
    frames = {name: source_files.picture(n, "PNG") for n, name in enumerate(names)}
    source_files.write_files(tmp_path, frames)
    source_files.write_files(tmp_path, {".f0.png": b"hidden", "notes.txt": "x"})
    assert [path.name for path in frame_files(tmp_path)] == ["F1.jpg", "f9.PNG", "f10.png"]
    _, (by_folder,) = source_files.pixels({"images": [], "videos": [tmp_path]})
    _, (by_list,) = source_files.pixels({"images": [], "videos": [frame_files(tmp_path)]})
    assert (by_folder == by_list).all()


@pytest.mark.parametrize("name", ["1.npy", "1.pth", "1.jpg.gz", "1.0.npy", "1.jpg_large", "1.pdf"])
def test_what_may_be_its_picture_and_is_not_read_is_told(tmp_path, name):
    talk = json.dumps({"question": "What is it?", "answer": "An owl."})
    for source in _both(tmp_path, {"1.json": talk, name: b"x", "2.json": talk, "2.cls": "7"}):
        with pytest.raises(BadData, match=f".{name[2:]} beside its text is not read") as told:
            source[0]
        assert told.value.reason == "unread medium"
        assert source[1]["images"] == []  # a class is no picture
    files = {"1.json": talk, "1.jpg": b"", name: b"x"}
    for source in _both(tmp_path, files):
        assert (len(source[0]["images"]), source[0]["unread"]) == (1, (f".{name[2:]}",))


def test_a_picture_that_is_a_folder_or_a_link_in_a_tar_is_told(tmp_path):
    talk = json.dumps({"question": "What is it?", "answer": "An owl."})
    (tmp_path / "folder" / "1.jpg").mkdir(parents=True)
    (tmp_path / "folder" / "1.json").write_text(talk)
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        for name, kind in (("1.json", tarfile.REGTYPE), ("1.jpg", tarfile.SYMTYPE)):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, "/elsewhere/1.jpg"
            member.size = len(talk) if kind == tarfile.REGTYPE else 0
            tar.addfile(member, io.BytesIO(talk.encode()))
    with pytest.raises(BadData, match=r"\.jpg beside its text is not read"):
        open_source(str(tmp_path / "x.tar"))[0]
    # That it cannot be read is reported when it is decoded.
    (folder,) = open_source(str(tmp_path / "folder"))[0]["images"]
    assert folder == tmp_path / "folder" / "1.jpg"


def test_a_text_may_have_the_whole_name_of_its_picture(tmp_path):
    for name in ("owl.jpg.txt", "owl.jpg.TXT"):
        for source in _both(
            tmp_path, {"owl.jpg": b"", name: "An owl.", "b.png": b"", "b.txt": "B"}
        ):
            records = [source[i] for i in range(len(source))]
            assert sorted(record["text"].rpartition("AI: ")[2] for record in records) == [
                "An owl.",
                "B",
            ]
            assert all(len(record["images"]) == 1 for record in records)


def test_two_pictures_with_texts_of_their_whole_names_are_not_merged(tmp_path):
    files = {"a.jpg": b"", "a.png": b"", "a.jpg.txt": "J", "a.png.txt": "P"}
    for source in _both(tmp_path, files):
        for i in range(len(source)):
            with pytest.raises(BadData, match=r"no \.txt or|caption, but no"):
                source[i]


def test_a_name_twice_in_a_tar_is_not_one_record(tmp_path):
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        for text in ("one", "two"):
            for name, data in (("1.txt", text.encode()), ("1.jpg", b"x")):
                member = tarfile.TarInfo(name)
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    with pytest.raises(BadData, match="several members of the same name"):
        open_source(str(tmp_path / "x.tar"))[0]


def test_notes_in_a_folder_of_frames(tmp_path):
    for number, other in enumerate(("Thumbs.db", "readme.md")):
        folder = tmp_path / str(number)
        (folder / "clip").mkdir(parents=True)
        files = {"clip.txt": "An owl.", "clip/1.jpg": b"", f"clip/{other}": b""}
        source_files.write_files(folder, files)
        assert len(open_source(str(folder))[0]["videos"]) == 1


def _both(tmp_path, files):
    """The sources of a new folder and a new tar of these files."""
    folder = tmp_path / str(len(list(tmp_path.iterdir())))
    folder.mkdir()
    source_files.write_files(folder, files)
    return open_source(str(folder)), open_source(
        str(source_files.write_tar(folder.with_suffix(".tar"), files))
    )
