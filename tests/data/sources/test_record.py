"""Every source names a record that cannot be read, whatever signs are in the path."""

import json

import pytest
import source_files

from owl_jax.data.sources.concatenated import ConcatenatedSource
from owl_jax.data.sources.detect import open_source

GOOD = {"text": source_files.text()}
BAD = {"text": source_files.text("<image>")}


def _lines(folder):
    lines = [json.dumps(BAD), "{", "\\xff", "[1]", "\n", json.dumps({**GOOD, "image": 3})]
    (folder / "data.jsonl").write_text("\n".join(lines))
    return folder / "data.jsonl"


def _array(folder):
    (folder / "data.json").write_text(f'[{json.dumps(BAD)}, 1,\n {{"a"}}, {{}}')
    return folder / "data.json"


def _table(folder):
    (folder / "data.csv").write_bytes(b'image,caption\n1.jpg,"\n1.jpg\n1.jpg,\n1.jpg,\xff\n')
    return folder / "data.csv"


def _samples():
    caption = {"1.txt": "no picture", "2.jpg": b"no caption", "3.jpg": b"", "3.txt": b"\xff"}
    return caption | {"4.jpg": b"", "4.json": "{", "5.json": "7", "6.json": json.dumps(BAD)}


def _tar(folder):
    path = source_files.write_tar(folder / "data.tar", {**_samples(), "7.jpg": b"x" * 1000})
    path.write_bytes(path.read_bytes()[: 512 * 16])
    return path


def _folder(folder):
    return source_files.write_files(folder / "samples", _samples())


def _array_record(folder):
    entries = [b"\xc1", BAD | {"where": "elsewhere:1"}, {}]
    return source_files.write_array_record(folder / "data.array_record", entries)


def _saved(folder):
    import datasets

    datasets.Dataset.from_list([BAD, {"text": ""}]).save_to_disk(folder / "saved")
    return folder / "saved"


@pytest.mark.parametrize("write", [_lines, _array, _table, _tar, _folder, _array_record, _saved])
def test_the_place_comes_before_the_words(tmp_path, write):
    folder = tmp_path / "owls: 1: ö"
    folder.mkdir()
    source = open_source(str(write(folder)))
    places = [source.where(index) for index in range(len(source))]
    assert len({*places}) == len(places) >= 2
    for index, place in enumerate(places):
        assert place.startswith(str(folder))
        source_files.assert_told(source, index)
    several = ConcatenatedSource([source, source])
    assert several.where(len(source)) == places[0]
    source_files.assert_told(several, len(source))
