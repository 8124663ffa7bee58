"""The directory that prepare writes: known again, and never taken for one when it is another's."""

import json
import os
import re

import pytest
import source_files
from source_files import NumberedSource as Source

from owl_jax.data.shards.journal import SKIPPED_FILE, Journal
from owl_jax.data.shards.manifest import JOURNAL_FILE, MANIFEST_FILE
from owl_jax.data.shards.target import (
    INDEX_DIR,
    Options,
    alone_in,
    check_unchanged,
    find_finished,
    is_busy,
    restart,
)
from owl_jax.data.shards.write import write_shards
from owl_jax.data.sources.array_record import open_shards
from owl_jax.errors import UserError

KIB = 1 / 1024


def _write(source, target):
    return write_shards(source, "12ef", target, "x", Options(shard_size=5 * KIB), 1, threads=3)


def _content(target):
    return {path.name: path.read_bytes() for path in target.iterdir()}


def _wheres(target):
    source = open_shards(target)
    return [source[i]["where"] for i in range(len(source))]


def test_a_finished_target_is_known(tmp_path):
    options = Options(shard_size=5 * KIB)
    assert find_finished(tmp_path, "x", options) is None
    manifest = _write(Source(12), tmp_path)
    assert find_finished(tmp_path, "x", options) == manifest
    (tmp_path / JOURNAL_FILE).write_text("")  # killed before it could be deleted
    assert find_finished(tmp_path, "x", options) == manifest
    assert not (tmp_path / JOURNAL_FILE).exists()
    (tmp_path / "data-00001.array_record").unlink()
    with pytest.raises(UserError, match=r"00001\.array_record: missing"):
        find_finished(tmp_path, "x", options)


@pytest.mark.parametrize("finished", [True, False])
def test_a_target_made_from_something_else_is_refused(tmp_path, finished):
    options = Options(shard_size=5 * KIB)
    if finished:
        _write(Source(12), tmp_path)
    else:
        with pytest.raises(KeyboardInterrupt):
            _write(Source(12, stop=11), tmp_path)
    with pytest.raises(UserError, match=r"was made with --source=x, not with --source=y; give"):
        find_finished(tmp_path, "y", options)
    other = Options(shard_size=5 * KIB, limit=3, media_root="m")
    expected = "with no --media_root no --limit, not with --media_root=m --limit=3; give another"
    with pytest.raises(UserError, match=expected):
        find_finished(tmp_path, "x", other)
    before = _content(tmp_path)
    restart(tmp_path)
    assert before and not _content(tmp_path)
    assert find_finished(tmp_path, "y", other) is None


def test_a_finished_target_whose_source_changed_is_refused(tmp_path):
    manifest = _write(Source(12), tmp_path)
    check_unchanged(tmp_path, manifest, "12ef")
    expected = r"finished, but its source has changed since \(fingerprint 12ef, now 34\); give anot"
    with pytest.raises(UserError, match=expected):
        check_unchanged(tmp_path, manifest, "34")


def test_other_directories_are_refused(tmp_path):
    (tmp_path / "photo.jpg").write_text("mine")
    expected = r"holds other files \(photo\.jpg\); expected a new or empty directory"
    with pytest.raises(UserError, match=expected):
        find_finished(tmp_path, "x", Options())
    restart(tmp_path)
    assert _content(tmp_path) == {"photo.jpg": b"mine"}
    with pytest.raises(UserError, match=r"photo\.jpg is a file; expected a directory"):
        find_finished(tmp_path / "photo.jpg", "x", Options())


@pytest.mark.parametrize("name", [MANIFEST_FILE, JOURNAL_FILE])
@pytest.mark.parametrize("data", ['{"format": "web app"}\n', "[]\n", "words"])
def test_files_of_our_names_may_be_somebody_elses(tmp_path, name, data):
    files = {name: data, "data-00000.array_record": "mine", SKIPPED_FILE: "mine"}
    source_files.write_files(tmp_path, files)
    before = _content(tmp_path)
    with pytest.raises(
        UserError, match=rf"{re.escape(name)} was not written by prepare, so nothing is del"
    ):
        restart(tmp_path)
    with pytest.raises(UserError, match=r"holds other files \(.*\); expected a new or empty"):
        find_finished(tmp_path, "x", Options())
    assert _content(tmp_path) == before


@pytest.mark.parametrize("name", [MANIFEST_FILE, JOURNAL_FILE])
def test_ours_beside_somebody_elses(tmp_path, name):
    if name == JOURNAL_FILE:
        _write(Source(12), tmp_path)
    else:
        with pytest.raises(KeyboardInterrupt):
            _write(Source(12, stop=11), tmp_path)
    (tmp_path / name).write_text('{"name": "web app"}\n')
    before = _content(tmp_path)
    with pytest.raises(UserError, match="was not written by prepare, so nothing is deleted"):
        restart(tmp_path)
    if name == JOURNAL_FILE:
        assert find_finished(tmp_path, "x", Options(shard_size=5 * KIB)) is not None
    assert _content(tmp_path) == before


def test_killed_in_the_first_moment(tmp_path):
    (tmp_path / INDEX_DIR).mkdir()
    for data in ("", '{"format": "owl_', '{"format": "owl_jax shards", "source'):
        (tmp_path / JOURNAL_FILE).write_text(data)
        restart(tmp_path)
        assert find_finished(tmp_path, "x", Options()) is None
    _write(Source(3), tmp_path)
    assert _wheres(tmp_path) == [f"x: y:{n}" for n in range(3)]


def test_restart_deletes_what_any_version_left(tmp_path):
    _write(Source(12), tmp_path)
    manifest = json.loads((tmp_path / MANIFEST_FILE).read_text())
    (tmp_path / MANIFEST_FILE).write_text(json.dumps({**manifest, "version": 99}))
    (tmp_path / f"{MANIFEST_FILE}.partial").write_text("{")
    (tmp_path / "data-00002.array_record.partial").write_text("x")
    restart(tmp_path)
    assert not _content(tmp_path)


@pytest.mark.parametrize("name", [MANIFEST_FILE, JOURNAL_FILE])
@pytest.mark.parametrize("damage", ["flipped", "NULs", "cut", "not UTF-8"])
def test_damage_is_one_line_and_restart_mends_it(tmp_path, name, damage):
    if name == MANIFEST_FILE:
        _write(Source(12), tmp_path)
    else:
        with pytest.raises(KeyboardInterrupt):
            _write(Source(12, stop=11), tmp_path)
    path = tmp_path / name
    whole = path.read_bytes()
    path.write_bytes(
        {
            "flipped": whole.replace(b'"source": "x"', b'"source": "y"'),
            "NULs": whole[:60] + bytes(20) + whole[80:],
            "cut": whole[:60] + b"\n",
            "not UTF-8": whole[:60] + b"\xff" + whole[61:],
        }[damage]
    )
    with pytest.raises(UserError, match=rf"{re.escape(name)}.*damaged.*--restart"):
        find_finished(tmp_path, "x", Options(shard_size=5 * KIB))
    restart(tmp_path)
    assert not _content(tmp_path)
    _write(Source(12), tmp_path)
    assert _wheres(tmp_path) == [f"x: y:{n}" for n in range(12)]


@pytest.mark.parametrize("name", [MANIFEST_FILE, JOURNAL_FILE, SKIPPED_FILE])
def test_fifos_are_not_waited_for(tmp_path, name):
    os.mkfifo(tmp_path / name)
    with pytest.raises(UserError, match=r"holds other files .*; expected a new or empty directory"):
        find_finished(tmp_path, "x", Options())
    (tmp_path / "new").mkdir()
    for partial in ("data-00000.array_record", MANIFEST_FILE):
        os.mkfifo(tmp_path / "new" / f"{partial}.partial")
    _write(Source(3), tmp_path / "new")
    assert len(_wheres(tmp_path / "new")) == 3


def test_restart_keeps_its_hands_off_a_run(tmp_path):
    with Journal(tmp_path, {"source": "x", "options": {}, "records": 1}):
        before = _content(tmp_path)
        with pytest.raises(UserError, match="another process is writing there"):
            restart(tmp_path)
        assert _content(tmp_path) == before


def test_restart_leaves_what_is_not_its_own(tmp_path):
    _write(Source(12), tmp_path)
    mine = {"notes.txt": "mine", "data-mine.array_record": "mine", "data-1.csv": "mine"}
    source_files.write_files(tmp_path, mine)
    restart(tmp_path)
    assert _content(tmp_path) == dict.fromkeys(mine, b"mine")


def test_one_process_at_a_time_is_in_a_target(tmp_path):
    target = tmp_path / "deep" / "target"
    with alone_in(target):
        assert is_busy(target)
        with (
            pytest.raises(UserError, match="target: another process is writing there; wait"),
            alone_in(target),
        ):
            pass
        assert target.is_dir()
    assert not target.exists()  # nothing was written
    with alone_in(target):
        (target / "file").touch()
    assert (target.is_dir(), is_busy(target), is_busy(tmp_path / "nowhere")) == (True, False, False)
    for taken in (target / "file", target / "file" / "deeper", target / ("x" * 300)):
        with pytest.raises(UserError, match="cannot be written"), alone_in(taken):
            pass
