"""WebDataset tars as records."""

import io
import json
import os
import pickle
import resource
import tarfile

import numpy as np
import pytest
import source_files

from owl_jax.data.sources.record import FilePart
from owl_jax.data.sources.tar import TarSource
from owl_jax.errors import BadData, UserError
from owl_jax.media.image import load_image


def _captions(source):
    return [source[i]["text"].partition("AI: ")[2] for i in range(len(source))]


def test_members_of_one_key_are_a_record(tmp_path):
    files = source_files.samples(tmp_path)
    path = source_files.write_tar(tmp_path / "x.tar", files)
    source = TarSource([path], tmp_path)
    assert len(source) == 4
    assert [source[i]["where"] for i in range(4)] == [
        f"{path}:{key}" for key in ("a/01", "a/02", "b/03", "b/04")
    ]
    assert _captions(source) == ["A small owl.", "An owl.", "It flies.", "An owl."]
    assert [part.name for part in source[1]["images"]] == ["a/02.0.png", "a/02.1.png"]
    assert [part.read() for part in source[1]["images"]] == [
        files["a/02.0.png"],
        files["a/02.1.png"],
    ]
    assert source[2]["videos"][0].read() == files["b/03.mp4"]
    assert source[3] == {
        "text": source_files.text(),
        "images": [],
        "videos": [],
        "task_type": "words",
        "where": f"{path}:b/04",
    }


def test_media_are_parts_of_the_tar(tmp_path):
    path = source_files.write_tar(tmp_path / "x.tar", source_files.samples(tmp_path))
    (image,) = TarSource([path], tmp_path)[0]["images"]
    assert isinstance(image, FilePart) and image.path == path
    expected = load_image(source_files.picture(1))
    np.testing.assert_array_equal(np.asarray(load_image(image)), np.asarray(expected))


def test_members_need_not_stand_together(tmp_path):
    members = {f"{n}.jpg": source_files.picture(n) for n in range(5)}
    members |= {f"{n}.txt": f"number {n}" for n in reversed(range(5))}
    source = TarSource([source_files.write_tar(tmp_path / "x.tar", members)], tmp_path)
    assert _captions(source) == [f"number {n}" for n in range(5)]
    assert [source[n]["images"][0].read() for n in range(5)] == [*members.values()][:5]


def test_several_tars_are_one_after_another(tmp_path):
    paths = [
        source_files.write_tar(
            tmp_path / f"{n}.tar", {f"{i}.json": json.dumps({"text": f"{n} {i}"}) for i in range(n)}
        )
        for n in (2, 0, 3, 1)
    ]
    source = TarSource(paths, tmp_path)
    assert [source[i]["text"] for i in range(6)] == ["2 0", "2 1", "3 0", "3 1", "3 2", "1 0"]


def test_hidden_and_other_members_are_passed_over(tmp_path):
    members = {
        "README": "x",
        "._1.jpg": b"\0\5\26\7",
        "./1.jpg": source_files.picture(1),
        "./1.txt": "one",
        "__MACOSX/1.txt": "x",
        "1.npy": b"numbers",
    }
    path = source_files.write_tar(tmp_path / "x.tar", members)
    with tarfile.open(path, "a") as tar:
        for kind, name in ((tarfile.DIRTYPE, "2.jpg"), (tarfile.SYMTYPE, "2.txt")):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "1.txt"
            tar.addfile(info)
    source = TarSource([path], tmp_path)
    assert _captions(source) == ["one"]


@pytest.mark.parametrize("format", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_long_names(tmp_path, format):
    key = "folder/" * 30 + "öwl" * 50
    with tarfile.open(tmp_path / "x.tar", "w", format=format) as tar:
        for name, data in (("0.txt", b"zero"), (f"{key}.txt", b"one"), (f"{key}.jpg", b"picture")):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
        info = tarfile.TarInfo("0.jpg")
        tar.addfile(info)
    source = TarSource([tmp_path / "x.tar"], tmp_path)
    assert _captions(source) == ["zero", "one"]
    assert source[1]["where"] == f"{tmp_path}/x.tar:{key}"
    assert source[1]["images"][0].read() == b"picture"


def test_a_record_that_cannot_be_used_is_named(tmp_path):
    members = {"1.jpg": source_files.picture(1), "2.jpg": source_files.picture(2), "2.txt": "two"}
    source = TarSource([source_files.write_tar(tmp_path / "x.tar", members)], tmp_path)
    with pytest.raises(BadData, match=r"x\.tar:1: no \.txt") as error:
        source[0]
    assert error.value.reason == "no text"
    assert source[1]["text"].endswith("two")


@pytest.mark.parametrize("index_dir", [None, "index"])
@pytest.mark.parametrize("cut", ["in a name", "in a header", "in a picture", "before the end"])
def test_a_tar_cut_short_gives_what_is_before_the_cut(tmp_path, cut, index_dir):
    members = {}
    for n in range(4):
        members |= {f"{n}.txt": f"number {n}", f"{n}.jpg": source_files.picture(n, "BMP")}
    path = source_files.write_tar(tmp_path / "x.tar", members)
    whole = path.read_bytes()
    with tarfile.open(path) as tar:
        header, data = tar.getmember("2.txt").offset, tar.getmember("2.jpg").offset_data
        end = tar.getmember("3.jpg").offset_data + 1536
    at = {"in a name": header, "in a header": header + 300, "in a picture": data + 700}
    path.write_bytes(whole[: at.get(cut, end)])
    count = 4 if cut == "before the end" else 2

    source = TarSource([path, path], tmp_path, index_dir and tmp_path / index_dir)
    assert len(source) == 2 * (count + 1)
    for first in (0, count + 1):
        for n in range(count):
            record = source[first + n]
            assert record["text"].endswith(f"number {n}")
            assert record["images"][0].read() == members[f"{n}.jpg"]
        with pytest.raises(
            BadData, match=rf"x\.tar:byte \d+: cut short after {count} samples"
        ) as error:
            source[first + count]
        assert error.value.reason == "truncated file"


def test_a_source_travels_to_workers(tmp_path):
    path = source_files.write_tar(tmp_path / "x.tar", source_files.samples(tmp_path))
    source = TarSource([path], tmp_path, tmp_path / "index")
    again = pickle.loads(pickle.dumps(source))
    assert [again[i] for i in range(4)] == [source[i] for i in range(4)]


def test_more_tars_than_files_can_be_open(tmp_path):
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    paths = [
        source_files.write_tar(tmp_path / f"{n}.tar", {"1.json": json.dumps({"text": f"x {n}"})})
        for n in range(80)
    ]
    resource.setrlimit(resource.RLIMIT_NOFILE, (60, limits[1]))
    try:
        source = TarSource(paths, tmp_path, tmp_path / "index")
        assert [source[n]["text"] for n in range(80)] == [f"x {n}" for n in range(80)]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def test_a_tar_that_vanished_or_changed(tmp_path):
    path = source_files.write_tar(tmp_path / "x.tar", source_files.samples(tmp_path))
    source = TarSource([path], tmp_path)
    path.write_bytes(b"\1" * path.stat().st_size)
    with pytest.raises(BadData, match=r"x\.tar:byte 2560: gone, or changed while it was in use"):
        source[1]
    path.unlink()
    with pytest.raises(BadData, match=r"x\.tar:byte 2560: gone, .*No such file"):
        source[1]


def test_a_tar_whose_samples_were_moved(tmp_path):
    members = {"1.txt": "one", "1.jpg": b"", "2.txt": "two", "2.jpg": b""}
    source = TarSource([source_files.write_tar(tmp_path / "x.tar", members)], tmp_path)
    moved = {"1.txt": "one", "3.jpg": b"", "2.md": "two", "2.jpg": b""}
    source_files.write_tar(tmp_path / "x.tar", moved)
    with pytest.raises(BadData, match=r"x\.tar:1: gone, .* \(its members have changed"):
        source[0]
    with pytest.raises(
        BadData, match=r"x\.tar:byte 1536: gone, .* \(no member of a sample at byte"
    ):
        source[1]


def test_a_text_that_was_cut_off_later(tmp_path):
    members = {"1.jpg": b"", "1.txt": "one" * 1000}
    path = source_files.write_tar(tmp_path / "x.tar", members)
    source = TarSource([path], tmp_path)
    os.truncate(path, 2000)
    source_files.assert_told(source, 0, "the .txt: 1.txt: ")


def test_what_is_no_tar(tmp_path):
    path = tmp_path / "x.tar"
    with pytest.raises(UserError, match=r"x\.tar: cannot be read \(No such file"):
        TarSource([path], tmp_path)
    path.write_bytes(b"")
    with pytest.raises(UserError, match=r"x\.tar: not a tar \(empty file\)"):
        TarSource([path], tmp_path)
    path.write_text("words " * 1000)
    with pytest.raises(UserError, match=r"x\.tar: not a tar"):
        TarSource([path], tmp_path)
    with tarfile.open(path, "w:gz") as tar:
        tar.add(__file__, "1.txt")
    with pytest.raises(UserError, match="a compressed one must be decompressed first"):
        TarSource([path], tmp_path)
    source_files.write_tar(path, {"README": "x"})
    with pytest.raises(UserError, match=r"x\.tar: no samples; expected members such as KEY\.jpg"):
        TarSource([path], tmp_path)
