"""One ArrayRecord file after another."""

import pytest

from owl_jax.data.shards.journal import Journal
from owl_jax.data.shards.writer import ShardWriter, writing
from owl_jax.data.sources.array_record import ArrayRecordReader
from owl_jax.errors import UserError

HEADER = {"source": "x", "options": {}, "records": 9}


def _read(path):
    reader = ArrayRecordReader(str(path))
    return [*reader.read_all()]


def test_shards_are_cut_by_size(tmp_path):
    payloads = [bytes([n]) * size for n, size in enumerate((3, 3, 4, 20, 1, 9, 1))]
    with Journal(tmp_path, HEADER) as journal, ShardWriter(tmp_path, journal, 10) as writer:
        for index, payload in enumerate(payloads):
            writer.add(payload, 2 * index)
        writer.finish(14)
        assert journal.next_index == 14
        assert [shard.records for shard in journal.shards] == [3, 1, 2, 1]
    files = sorted(tmp_path.glob("*.array_record"))
    assert [payload for path in files for payload in _read(path)] == payloads
    assert not [*tmp_path.glob("*.partial")]


def test_a_shard_has_its_name_when_it_is_finished(tmp_path):
    with Journal(tmp_path, HEADER) as journal:
        with ShardWriter(tmp_path, journal, 10) as writer:
            writer.add(b"12345", 0)
            assert [path.name for path in tmp_path.glob("data-*")] == [
                "data-00000.array_record.partial"
            ]
            writer.add(b"123456", 7)
            assert (tmp_path / "data-00000.array_record").exists()
            assert journal.next_index == 7
        assert [path.name for path in tmp_path.glob("data-*")] == ["data-00000.array_record"]
        with ShardWriter(tmp_path, journal, 10) as writer:
            writer.finish(8)  # nothing is in it: no shard
            writer.add(b"123456", 8)
            writer.finish(9)
    assert _read(tmp_path / "data-00001.array_record") == [b"123456"]


def test_failures_to_write_are_the_users_to_mend(tmp_path):
    with Journal(tmp_path, HEADER) as journal:
        writer = ShardWriter(tmp_path / "none", journal, 10)
        with pytest.raises(UserError, match=r"partial: cannot be written .*No such file"):
            writer.add(b"1", 0)
    for error in (OSError(28, "No space left on device"), RuntimeError("No space left on\ndevice")):
        expected = r"x: cannot be written \(No space left on device\)"
        with pytest.raises(UserError, match=expected), writing(tmp_path.with_name("x")):
            raise error
