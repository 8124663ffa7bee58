"""The same for a copy, another for other content."""

import json
import shutil
from pathlib import Path

import pytest
import source_files
from PIL import Image

from owl_jax.data.sources.concatenated import ConcatenatedSource
from owl_jax.data.sources.dataset_hash import fingerprint
from owl_jax.data.sources.detect import open_source
from owl_jax.data.sources.json_lines import JsonLinesSource
from owl_jax.data.sources.record import FilePart

KINDS = (
    "json_lines",
    "json_array",
    "csv",
    "tar",
    "folder",
    "array_record",
    "saved",
    "parquet",
    "tfds",
)


@pytest.fixture(scope="module")
def specs(tmp_path_factory):
    return source_files.write_all(tmp_path_factory.mktemp("sources") / "owls")


@pytest.mark.parametrize("kind", KINDS)
def test_a_copy_has_the_same(specs, kind, tmp_path):
    source = Path(specs[kind])
    root = next(parent for parent in source.parents if parent.name == "owls")
    shutil.copytree(root, tmp_path / "copy")
    copy = tmp_path / "copy" / source.relative_to(root)
    found = fingerprint(open_source(str(source)))
    assert found == fingerprint(open_source(str(source))) == fingerprint(open_source(str(copy)))
    assert len(found) == 16


@pytest.mark.parametrize("kind", KINDS)
def test_bytes_are_counted(specs, kind):
    source = open_source(specs[kind])
    if Path(specs[kind]).is_file() and kind != "parquet":
        assert source.num_bytes() == Path(specs[kind]).stat().st_size
    assert ConcatenatedSource([source, source]).num_bytes() == 2 * source.num_bytes() > 0


def test_kinds_differ(specs):
    found = {fingerprint(open_source(specs[kind])) for kind in KINDS}
    assert len(found) >= len(KINDS) - 1  # the folder and the tar may hold the same
    embedded = source_files.EMBEDDED
    one, same, other = (open_source(f"{embedded}:{kind}") for kind in ("vqa", "vqa", "video"))
    assert fingerprint(one) == fingerprint(same) != fingerprint(other)


RECORD = {"text": source_files.text("<image>"), "image": "1.jpg"}
LINES = [json.dumps({**RECORD, "image": f"{number}.jpg"}) for number in range(1000)]


@pytest.mark.parametrize(
    "change",
    [
        lambda lines: lines[:-1],
        lambda lines: [*lines, lines[0]],
        lambda lines: [lines[1], *lines[1:]],
        lambda lines: [*lines[:-1], lines[0]],
        lambda lines: [*lines[:300], lines[0], *lines[300:-1]],
        lambda lines: [*lines[:400], lines[400] + " ", *lines[401:]],
        lambda lines: ["{", *lines[1:]],
        lambda lines: [json.dumps({**RECORD, "image": "2.jpg"}), *lines[1:]],
        lambda lines: [json.dumps({**RECORD, "task_type": "vqa"}), *lines[1:]],
    ],
    ids=range(9),
)
def test_what_changed_is_noticed(tmp_path, change):
    def of(lines):
        (tmp_path / "data.jsonl").write_text("\n".join(lines))
        return fingerprint(JsonLinesSource(tmp_path / "data.jsonl", tmp_path))

    assert of(LINES) == of(LINES) != of(change(LINES))


def test_records_that_cannot_be_read_do_not_stop_it():
    found = {
        fingerprint(source_files.NumberedSource(30, broken))
        for broken in ((), (0,), (29,), (0, 29), range(30))
    }
    assert len(found) == 5
    assert fingerprint(source_files.NumberedSource(1)) not in found


def test_few_records_are_read():
    source = source_files.NumberedSource(1_000_000)
    fingerprint(source)
    assert len(source.asked) == 64 and {0, 999_999} <= {*source.asked}


def test_media_are_told_apart_without_opening_them(tmp_path):
    class Source:
        def __init__(self, images=(), videos=()):
            self.record = {"text": "x", "images": images, "videos": videos, "task_type": ""}

        def __len__(self):
            return 1

        def __getitem__(self, index):
            return self.record

        def where(self, index):
            return "x"

        def num_bytes(self):
            return 0

    tar, path = tmp_path / "x.tar", tmp_path / "1.jpg"  # neither is there
    media = [
        path,
        tmp_path / "2.jpg",
        b"1",
        b"2",
        FilePart(tar, 512, 9, "1.jpg"),
        FilePart(tar, 512, 8, "1.jpg"),
        Image.new("RGB", (2, 1)),
        Image.new("RGB", (1, 2)),
        Image.new("RGB", (2, 1), "red"),
    ]
    images = {fingerprint(Source([medium])) for medium in media}
    videos = {fingerprint(Source([], [[medium]])) for medium in media}
    assert len(images | videos) == 2 * len(media)
    assert fingerprint(Source([path])) == fingerprint(Source([tmp_path / "other" / "1.jpg"]))
    moved = FilePart(tmp_path / "y.tar", 1024, 9, "1.jpg")
    assert fingerprint(Source([moved])) == fingerprint(Source([media[4]]))
