"""Shards: in order, whatever the threads; resumed; stopped where too much is broken."""

import hashlib
import json

import pytest
from source_files import NumberedSource as Source

from owl_jax.data.shards.journal import SKIPPED_FILE
from owl_jax.data.shards.manifest import JOURNAL_FILE, MANIFEST_FILE, read_manifest
from owl_jax.data.shards.target import Options, find_finished
from owl_jax.data.shards.write import Progress, write_shards
from owl_jax.data.sources.array_record import open_shards
from owl_jax.errors import UserError

KIB = 1 / 1024


def _write(source, target, options=Options(shard_size=5 * KIB), threads=3, **kwargs):  # noqa: B008
    max_dropped = kwargs.pop("max_dropped", 1)
    return write_shards(source, "12ef", target, "x", options, max_dropped, threads, **kwargs)


def _content(target):
    return {path.name: path.read_bytes() for path in target.iterdir()}


def _wheres(target):
    source = open_shards(target)
    return [source[i]["where"] for i in range(len(source))]


def test_records_keep_their_order_and_sizes(tmp_path):
    manifest = _write(Source(22, slow=True), tmp_path / "new" / "target")
    target = tmp_path / "new" / "target"
    assert _wheres(target) == [f"x: y:{n}" for n in range(22)]
    assert [shard.records for shard in manifest.shards] == [5, 5, 5, 5, 2]
    names = [f"data-{n:05d}.array_record" for n in range(5)]
    assert [shard.name for shard in manifest.shards] == names
    for shard in manifest.shards:
        data = (target / shard.name).read_bytes()
        assert (len(data), hashlib.sha256(data).hexdigest()) == (shard.bytes, shard.sha256)
    assert read_manifest(target) == manifest
    assert {path.name for path in target.iterdir()} == {*names, MANIFEST_FILE, SKIPPED_FILE}


def test_a_record_larger_than_a_shard_has_one_of_its_own(tmp_path):
    manifest = _write(Source(3), tmp_path, Options(shard_size=0.5 * KIB))
    assert [shard.records for shard in manifest.shards] == [1, 1, 1]


def test_threads_change_nothing(tmp_path):
    for threads in (1, 2, 7):
        source = Source(30, broken=(0, 4, 11, 29), slow=True)
        _write(source, tmp_path / str(threads), threads=threads)
    assert _content(tmp_path / "1") == _content(tmp_path / "2") == _content(tmp_path / "7")


def test_few_records_are_read_ahead(tmp_path):
    source, seen = Source(60), []
    _write(source, tmp_path, report=lambda p: seen.append(max(source.asked) - p.done), threads=3)
    assert max(seen) <= 2 * 3


def test_what_is_skipped_is_counted_and_listed(tmp_path):
    reports = []
    manifest = _write(Source(12, broken=(0, 3, 4, 11)), tmp_path, report=reports.append)
    assert (manifest.records, manifest.skipped) == (8, {"reason 0": 2, "reason 1": 2})
    lines = (tmp_path / SKIPPED_FILE).read_text().splitlines()
    assert [json.loads(line) for line in lines] == [
        {"where": f"x: y:{n}", "reason": f"reason {n % 2}", "message": f"x: y:{n}: is broken"}
        for n in (0, 3, 4, 11)
    ]
    assert _wheres(tmp_path) == [f"x: y:{n}" for n in range(12) if n not in (0, 3, 4, 11)]
    assert reports[0] == Progress(1, 12, 1) and reports[-1] == Progress(12, 12, 4)


def test_a_limit_takes_the_first_records(tmp_path):
    source = Source(100, broken=(1,))
    _write(source, tmp_path, Options(limit=4))
    assert _wheres(tmp_path) == ["x: y:0", "x: y:2", "x: y:3"]
    assert max(source.asked) == 3
    _write(Source(3), tmp_path / "short", Options(limit=4))
    assert len(_wheres(tmp_path / "short")) == 3


@pytest.mark.parametrize("stop", [0, 1, 4, 5, 6, 13, 22, 29])
def test_interrupted_and_resumed_is_as_if_not(tmp_path, stop):
    broken = (0, 4, 11, 12, 29)
    _write(Source(30, broken), tmp_path / "whole")
    target = tmp_path / "resumed"
    with pytest.raises(KeyboardInterrupt):
        _write(Source(30, broken, stop=stop), target, threads=1)
    assert (target / JOURNAL_FILE).exists() and not (target / MANIFEST_FILE).exists()
    finished = {path: path.stat().st_mtime_ns for path in target.glob("*.array_record")}
    assert not [*target.glob("*.partial")]
    source = Source(30, broken)
    assert find_finished(target, "x", Options(shard_size=5 * KIB)) is None
    _write(source, target)
    assert _content(target) == _content(tmp_path / "whole")
    assert finished == {path: path.stat().st_mtime_ns for path in finished}
    # Nothing of the finished shards is read again.
    records = [shard.records for shard in read_manifest(target).shards[: len(finished)]]
    assert min(source.asked) >= sum(records)


def test_too_many_broken_stop_it_early(tmp_path):
    source = Source(1000, broken=range(0, 1000, 10))
    expected = (
        r"10 of 100 records were skipped \(reason 0: 10\), more than --max_dropped=0\.01 allows"
    )
    with pytest.raises(UserError, match=expected):
        _write(source, tmp_path, Options(), max_dropped=0.01)
    assert len(source.asked) < 120


def test_a_share_is_judged_as_a_whole_at_the_end(tmp_path):
    """On the way a share of 0.02 may be an accident under a limit of 0.015."""
    broken = range(0, 1000, 50)
    with pytest.raises(UserError, match="20 of 1000 records were skipped"):
        _write(Source(1000, broken), tmp_path, Options(), max_dropped=0.015)
    _write(Source(1000, broken), tmp_path, Options(), max_dropped=0.02)
    assert read_manifest(tmp_path).records == 980


def test_too_many_broken_of_a_few_stop_it_at_the_end(tmp_path):
    with pytest.raises(UserError, match=r"1 of 20 records were skipped"):
        _write(Source(20, broken=(3,)), tmp_path, max_dropped=0.01)
    assert not (tmp_path / MANIFEST_FILE).exists()
    _write(Source(20, broken=(3,)), tmp_path, max_dropped=0.05)
    assert read_manifest(tmp_path).records == 19


def test_a_source_of_which_nothing_is_left(tmp_path):
    with pytest.raises(UserError, match="5 of 5 records were skipped"):
        _write(Source(5, broken=range(5)), tmp_path, max_dropped=1)


def test_a_source_that_changed_in_between_is_refused(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        _write(Source(12, stop=11), tmp_path)
    with pytest.raises(UserError, match=r"has changed since the first run \(records 12, now 13\)"):
        _write(Source(13), tmp_path)
    with pytest.raises(UserError, match=r"changed since .* \(fingerprint 12ef, now 34\)"):
        write_shards(Source(12), "34", tmp_path, "x", Options(shard_size=5 * KIB), 1, 1)
