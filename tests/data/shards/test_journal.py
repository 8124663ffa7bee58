"""The journal of a run that can be killed at any moment."""

import json
import os
import resource

import pytest

from owl_jax.data.drops import Dropped
from owl_jax.data.shards.journal import (
    SKIPPED_FILE,
    Journal,
    is_barely_begun,
    is_begun,
    lock,
    partial_path,
    read_header,
)
from owl_jax.data.shards.manifest import JOURNAL_FILE, Shard
from owl_jax.errors import UserError

HEADER = {"source": "öwls", "options": {"limit": None}, "records": 9, "fingerprint": "12"}


def _part(target, number):
    shard = Shard(f"data-{number}.array_record", 2, 5, "ab")
    part = partial_path(target / shard.name)
    part.write_bytes(b"12345")
    return shard, part


def _skipped(target):
    lines = (target / SKIPPED_FILE).read_text(encoding="utf-8").splitlines()
    return [json.loads(line)["where"] for line in lines]


@pytest.fixture
def begun(tmp_path):
    """A target with one finished shard; two records were skipped before its end, one after."""
    with Journal(tmp_path, HEADER) as journal:
        journal.skip(Dropped("x:1", "no text", "x:1: none"))
        journal.skip(Dropped("x:2", "no text", "x:2: none"))
        journal.finish_shard(*_part(tmp_path, 0), next_index=4)
        journal.skip(Dropped("x:5", "missing file", "x:5: gone"))
    return tmp_path


def test_a_new_one(tmp_path):
    assert read_header(tmp_path) is None
    with Journal(tmp_path, HEADER) as journal:
        assert (journal.shards, journal.next_index, journal.skipped) == ([], 0, {})
        assert read_header(tmp_path) == HEADER


def test_it_goes_on_after_the_last_finished_shard(begun):
    assert _skipped(begun) == ["x:1", "x:2", "x:5"]
    with Journal(begun, HEADER) as journal:
        assert [shard.name for shard in journal.shards] == ["data-0.array_record"]
        assert (journal.next_index, journal.skipped) == (4, {"no text": 2})
        assert _skipped(begun) == ["x:1", "x:2"]
        journal.skip(Dropped("x:5", "missing file", "x:5: gone"))
        journal.finish_shard(*_part(begun, 1), next_index=9)
    with Journal(begun, HEADER) as journal:
        assert journal.next_index == 9
        assert journal.skipped == {"no text": 2, "missing file": 1}
    assert _skipped(begun) == ["x:1", "x:2", "x:5"]


def test_a_line_that_was_cut_off_counts_for_nothing(begun):
    path = begun / JOURNAL_FILE
    whole = path.read_bytes()
    with Journal(begun, HEADER) as journal:
        journal.finish_shard(*_part(begun, 1), next_index=9)
    longer = path.read_bytes()
    for size in range(len(whole), len(longer)):
        path.write_bytes(longer[:size])
        with Journal(begun, HEADER) as journal:
            assert journal.next_index == 4
        assert path.read_bytes() == whole
    for size in range(whole.index(b"\n") + 1):
        path.write_bytes(whole[:size])
        assert read_header(begun) is None and not is_begun(begun) and is_barely_begun(begun)
        with Journal(begun, HEADER) as journal:
            assert journal.next_index == 0
        assert read_header(begun) == HEADER and is_begun(begun) and not is_barely_begun(begun)


@pytest.mark.parametrize("data", ['{"step": 1}\n', '{"step": 1}', "[]\n", "words\n", "words", "\n"])
def test_a_journal_of_somebody_else(tmp_path, data):
    (tmp_path / JOURNAL_FILE).write_text(data)
    assert read_header(tmp_path) is None
    assert not is_begun(tmp_path) and not is_barely_begun(tmp_path)


def test_resumed_without_another_record_skipped(begun):
    with Journal(begun, HEADER) as journal:
        journal.finish_shard(*_part(begun, 1), next_index=9)
    with Journal(begun, HEADER):
        assert _skipped(begun) == ["x:1", "x:2"]


def test_killed_between_the_line_and_the_name(begun):
    shard = begun / "data-0.array_record"
    shard.rename(partial_path(shard))
    with Journal(begun, HEADER):
        assert shard.read_bytes() == b"12345"


def test_another_source_or_another_process_is_refused(begun):
    expected = r"the source has changed since the first run \(records 9, now 10\); give another"
    with pytest.raises(UserError, match=expected):
        Journal(begun, {**HEADER, "records": 10})
    with pytest.raises(UserError, match=r"changed since .* \(fingerprint 12, now 34\)"):
        Journal(begun, {**HEADER, "fingerprint": "34"})
    with Journal(begun, HEADER), pytest.raises(UserError, match="another process is writing"):
        Journal(begun, HEADER)


def test_a_lost_shard_is_named(begun):
    os.truncate(begun / "data-0.array_record", 4)
    with pytest.raises(UserError, match=r"data-0\.array_record: missing, or its size has changed"):
        Journal(begun, HEADER)
    (begun / "data-0.array_record").unlink()
    with pytest.raises(UserError, match=r"data-0\.array_record: missing, or its size has changed"):
        Journal(begun, HEADER)


def test_no_flipped_byte_is_passed_over(begun):
    """Each is an error that tells of --restart, or ends the journal before the damaged line."""
    path, shard = begun / JOURNAL_FILE, begun / "data-0.array_record"
    whole = path.read_bytes()
    second = whole.index(b"\n") + 1
    errors = 0
    for place in range(len(whole)):
        byte = (0, 0xFF, whole[place] ^ 1)[place % 3]
        path.write_bytes(whole[:place] + bytes([byte]) + whole[place + 1 :])
        (begun / SKIPPED_FILE).write_bytes(bytes(500))
        try:
            with Journal(begun, HEADER) as journal:
                assert (len(journal.shards), journal.next_index) in ((0, 0), (1, 4))
                assert place == len(whole) - 1 or place == second - 1 or journal.shards
        except UserError as error:
            errors += 1
            assert "damaged" in str(error) and "give --restart" in str(error)
        if place >= len('{"format": "owl_jax shards"'):
            assert is_begun(begun)
    assert errors > 0.9 * len(whole) and shard.exists()


@pytest.mark.parametrize(
    "damage", ["NULs", "truncated", "not UTF-8", "no hash", "nested", "no object", "a word"]
)
def test_damage_is_one_line(begun, damage):
    path = begun / JOURNAL_FILE
    header, line, _ = path.read_bytes().split(b"\n")
    lines = {
        "NULs": [header, bytes(len(line))],
        "truncated": [header, line[:-9]],
        "not UTF-8": [header, b"\xff" + line],
        "no hash": [header, b'{"shard": null, "next_index": 0, "skipped_bytes": 0}'],
        "nested": [header, b"[" * 100_000],
        "no object": [header, b"[]"],
        "a word": [header[:-1] + b"x", line],
    }[damage]
    path.write_bytes(b"\n".join(lines) + b"\n")
    number = 1 if damage == "a word" else 2
    expected = (
        rf"progress\.jsonl, line {number}: damaged, or written by an older owl_jax.*give --restart"
    )
    with pytest.raises(UserError, match=expected):
        Journal(begun, HEADER)
    assert is_begun(begun)
    if number == 1:
        with pytest.raises(UserError, match=expected):
            read_header(begun)


@pytest.mark.parametrize("name", [JOURNAL_FILE, SKIPPED_FILE])
def test_a_fifo_is_not_waited_for(begun, name):
    (begun / name).unlink()
    os.mkfifo(begun / name)
    with pytest.raises(UserError, match=rf"{name}: is a FIFO, not a regular file; move it away"):
        Journal(begun, HEADER)
    assert is_begun(begun) == (name == SKIPPED_FILE)


def test_a_list_of_skipped_records_that_lost_its_end(begun):
    os.truncate(begun / SKIPPED_FILE, 5)
    with pytest.raises(UserError, match=r"skipped\.jsonl: shorter than it was; give --restart"):
        Journal(begun, HEADER)


def test_a_full_disk(begun):
    """Files of this process cannot grow beyond a size: the nearest thing to a full disk."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    journal = (begun / JOURNAL_FILE).read_bytes()
    with Journal(begun, HEADER) as opened:
        part = _part(begun, 1)
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(journal) + 20, limits[1]))
        try:
            with pytest.raises(OSError, match=r"File too large|No space left"):
                opened.skip(Dropped("x:5", "no text", f"x:5: {'long ' * 200}"))
            with pytest.raises(OSError, match=r"File too large|No space left"):
                opened.finish_shard(*part, next_index=9)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    with Journal(begun, HEADER) as opened:
        assert opened.next_index == 4
        assert (begun / JOURNAL_FILE).read_bytes() == journal


def test_a_journal_that_another_process_finished_meanwhile_is_not_written(tmp_path):
    with (tmp_path / JOURNAL_FILE).open("a+b") as file:
        (tmp_path / JOURNAL_FILE).unlink()
        for _ in range(2):
            with pytest.raises(UserError, match="another process is writing there"):
                lock(file, tmp_path)
            (tmp_path / JOURNAL_FILE).touch()  # another's
