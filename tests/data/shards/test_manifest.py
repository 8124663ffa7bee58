"""manifest.json: written, read, refused."""

import json
import os

import pytest

from owl_jax.data.shards.manifest import (
    JOURNAL_FILE,
    MANIFEST_FILE,
    Manifest,
    Shard,
    check_shards,
    is_finished,
    read_manifest,
)
from owl_jax.errors import UserError

MANIFEST = Manifest(
    "öwls.jsonl",
    "12ef",
    {"limit": 5, "reencode": None},
    {"no text": 1, "missing file": 2},
    [Shard("data-00000.array_record", 3, 100, "ab"), Shard("data-00001.array_record", 1, 7, "cd")],
)


@pytest.fixture
def directory(tmp_path):
    (tmp_path / MANIFEST_FILE).write_text(MANIFEST.to_json(), encoding="utf-8")
    return tmp_path


def test_what_is_in_it(directory):
    values = json.loads((directory / MANIFEST_FILE).read_text(encoding="utf-8"))
    assert values == {
        "format": "owl_jax shards",
        "version": 1,
        "source": "öwls.jsonl",
        "fingerprint": "12ef",
        "options": {"limit": 5, "reencode": None},
        "records": 4,
        "skipped": {"total": 3, "reasons": {"missing file": 2, "no text": 1}},
        "noted": {},
        "shards": [
            {"name": "data-00000.array_record", "records": 3, "bytes": 100, "sha256": "ab"},
            {"name": "data-00001.array_record", "records": 1, "bytes": 7, "sha256": "cd"},
        ],
        "sha256": "95d03d5130f8a37673e6aebee9e383e6b3c70cd9efd1488c46e24f3bba0d17bf",
    }
    assert read_manifest(directory) == MANIFEST


def test_shards_are_there_in_full(directory):
    for shard in MANIFEST.shards:
        (directory / shard.name).write_bytes(bytes(shard.bytes))
    check_shards(directory, MANIFEST)
    (directory / "data-00001.array_record").write_bytes(bytes(8))
    with pytest.raises(UserError, match=r"00001\.array_record: 8 bytes, manifest\.json says 7"):
        check_shards(directory, MANIFEST)
    (directory / "data-00001.array_record").unlink()
    with pytest.raises(UserError, match=r"00001\.array_record: missing"):
        check_shards(directory, MANIFEST)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", r"damaged \(Expecting property name"),
        ("[" * 100_000, r"damaged \(nested too deeply"),
        ("[]", "not a manifest of owl_jax; this owl_jax reads"),
        ("{}", "not a manifest of owl_jax"),
        ('{"format": "owl_jax shards", "version": 2}', '"owl_jax shards" of version 2; this'),
        (
            '{"format": "owl_jax shards", "version": 1}',
            r"damaged, its content is malformed \('skipped'\)",
        ),
    ],
)
def test_what_is_no_manifest(directory, text, message):
    (directory / MANIFEST_FILE).write_text(text)
    with pytest.raises(UserError, match=message):
        read_manifest(directory)
    assert is_finished(directory) == ("owl_jax shards" in text)


def test_an_older_one_without_a_hash_is_read_and_checked(directory):
    path = directory / MANIFEST_FILE
    values = json.loads(path.read_text(encoding="utf-8"))
    del values["sha256"]
    path.write_text(json.dumps(values))
    assert read_manifest(directory) == MANIFEST
    shard = values["shards"][0]
    for wrong in (
        {"shards": [{**shard, "name": "../../secret"}]},
        {"shards": [{**shard, "bytes": "many"}]},
        {"shards": {}},
        {"skipped": None},
        {"skipped": {"reasons": {"no text": -1}}},
        {"fingerprint": 5},
        {"sha257": "ab"},
    ):
        path.write_text(json.dumps(values | wrong))
        with pytest.raises(UserError, match=r"damaged, .*; copy it again, or prepare the data aga"):
            read_manifest(directory)


def test_no_flipped_byte_is_passed_over(directory):
    path = directory / MANIFEST_FILE
    whole = path.read_bytes()
    for place in range(len(whole)):
        byte = (0, 0xFF, whole[place] ^ 1)[place % 3]
        path.write_bytes(whole[:place] + bytes([byte]) + whole[place + 1 :])
        try:
            assert read_manifest(directory) == MANIFEST  # white space, or what JSON takes for it
        except UserError as error:
            assert "\n" not in str(error)
        assert is_finished(directory) or place < len('{\n  "format": "owl_jax shards"')
    for size in range(len(whole) - 1):
        path.write_bytes(whole[:size] + bytes(len(whole) - size))
        with pytest.raises(UserError, match=r"damaged|not a manifest of owl_jax"):
            read_manifest(directory)


def test_a_fifo_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / MANIFEST_FILE)
    assert not is_finished(tmp_path)
    with pytest.raises(UserError, match=r"manifest\.json: cannot be read \(is a FIFO"):
        read_manifest(tmp_path)


def test_a_directory_without_one(tmp_path):
    with pytest.raises(
        UserError, match=r"no manifest\.json; expected a directory that prepare wrote"
    ):
        read_manifest(tmp_path)
    (tmp_path / JOURNAL_FILE).write_text("")
    with pytest.raises(UserError, match="is not finished: run the same command again"):
        read_manifest(tmp_path)
