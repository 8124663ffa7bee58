"""The command that prepares: every kind of source, killed and resumed, mistakes in one line."""

import errno
import json
import re
import shutil
import signal
import subprocess
import sys
import time

import forked
import pytest
import source_files
from absl import flags
from absl.testing import flagsaver

from owl_jax import prepare
from owl_jax.data.shards.journal import SKIPPED_FILE
from owl_jax.data.shards.manifest import JOURNAL_FILE, MANIFEST_FILE
from owl_jax.data.shards.target import INDEX_DIR, Options, find_finished
from owl_jax.data.sources.detect import open_source

EMBEDDED = f"{source_files.EMBEDDED}:vqa"


def _command(source, target, *flags):
    return ["-m", "owl_jax.prepare", f"--source={source}", f"--target={target}", *flags]


def _run(*args, before=()):
    if not before:
        return forked.run(*_command(*args))
    command = [*before, sys.executable, *_command(*args)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def _done(source, target, *flags):
    """Prepares, and gives (records, shards, what is said of the skipped)."""
    done = _run(source, target, *flags)
    assert (done.returncode, done.stderr) == (0, "")
    found = re.fullmatch(
        r"(\S+): ([\d,]+) records in ([\d,]+) shards, \d+\.\d\d GB, (\d+ skipped.*), \d+\.\d s\n",
        done.stdout,
    )
    assert found, done.stdout
    assert found[1] == str(target)
    return int(found[2].replace(",", "")), int(found[3].replace(",", "")), found[4]


def _refused(status, *args, **kwargs):
    done = _run(*args, **kwargs)
    assert done.returncode == status, done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    return line.removeprefix("error: ")


def _content(target):
    return {path.name: path.read_bytes() for path in target.iterdir()}


@pytest.fixture(scope="module")
def specs(tmp_path_factory):
    return source_files.write_all(tmp_path_factory.mktemp("sources"))


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """JSON Lines with 120 pictures; the 8th and the 50th are broken."""
    folder = tmp_path_factory.mktemp("pictures")
    lines = []
    for number in range(120):
        data = source_files.picture(number, size=(160, 120))
        (folder / f"{number}.jpg").write_bytes(data[:-200] if number in (7, 49) else data)
        lines.append({"text": source_files.text("<image>"), "image": f"{number}.jpg"})
    (folder / "data.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return folder / "data.jsonl"


@pytest.mark.parametrize(
    "kind",
    ["json_lines", "json_array", "csv", "tar", "folder", "array_record", "saved", "parquet",
     "tfds", "synthetic"],
)  # fmt: skip
def test_what_is_prepared_is_what_was_there(specs, kind, tmp_path):
    target = tmp_path / "target"
    source = open_source(specs[kind])
    expected = [source[i] for i in range(min(len(source), 8))]
    count, shards, skipped = _done(specs[kind], target, "--limit=8")
    text_only = sum(not (record["images"] or record["videos"]) for record in expected)
    noted = f", {text_only} without picture or video" if text_only else ""
    assert (count, shards, skipped) == (len(expected), 1, f"0 skipped{noted}")
    source_files.assert_same_records(open_source(str(target)), expected)
    names = {"data-00000.array_record", MANIFEST_FILE, SKIPPED_FILE}
    assert {path.name for path in target.iterdir()} == names


def test_broken_records_are_skipped_and_named(pictures, tmp_path):
    target = tmp_path / "target"
    done = _done(pictures, target, "--max_dropped=0.02")
    assert done == (118, 1, "2 skipped (damaged picture: 2)")
    skipped = [json.loads(line) for line in (target / SKIPPED_FILE).read_text().splitlines()]
    assert [line["where"] for line in skipped] == [f"{pictures}:8", f"{pictures}:50"]
    assert "7.jpg: damaged or cut short" in skipped[0]["message"]
    source, prepared = open_source(str(pictures)), open_source(str(target))
    rest = [source[i] for i in range(120) if i not in (7, 49)]
    source_files.assert_same_records(prepared, rest)
    assert prepared[9]["images"] == [rest[9]["images"][0].read_bytes()]


def test_too_many_broken_end_it(pictures, tmp_path):
    message = _refused(1, pictures, tmp_path, "--threads=2")
    assert message.startswith("2 of 120 records were skipped (damaged picture: 2), more than")
    assert not (tmp_path / MANIFEST_FILE).exists()
    assert _done(pictures, tmp_path, "--max_dropped=0.05")[0] == 118


def test_reencoding(specs, tmp_path):
    _done(specs["json_lines"], tmp_path, "--reencode=80", "--max_side=12")
    source, prepared = open_source(specs["json_lines"]), open_source(str(tmp_path))
    for index in range(len(source)):
        before, after = (source_files.pixels(each[index]) for each in (source, prepared))
        assert [x.shape for x in after[0]] == [(8, 12, 3)] * len(before[0])
    manifest = json.loads((tmp_path / MANIFEST_FILE).read_text())
    assert (manifest["options"]["reencode"], manifest["options"]["max_side"]) == (80, 12)


def test_the_root_of_media(pictures, tmp_path):
    (tmp_path / "data.jsonl").write_bytes(pictures.read_bytes())
    flags = "--limit=5", f"--media_root={pictures.parent}"
    assert _done(tmp_path / "data.jsonl", tmp_path / "target", *flags)[0] == 5


@pytest.mark.parametrize("shards_before_kill", [0, 3])
def test_killed_and_begun_again_is_as_if_not_killed(pictures, tmp_path, shards_before_kill):
    flags = "--shard_size=0.05", "--max_dropped=0.1", "--threads=2"
    _, shards, _ = _done(pictures, tmp_path / "whole", *flags)
    assert shards > 5
    target = tmp_path / "killed"
    process = forked.Forked(_command(pictures, target, *flags))
    while process.poll() is None:
        finished = [*target.glob("data-*.array_record")]
        if (target / JOURNAL_FILE).exists() and len(finished) >= shards_before_kill:
            process.send_signal(signal.SIGKILL)
            break
        time.sleep(0.001)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert not (target / MANIFEST_FILE).exists()
    stamps = {path: path.stat().st_mtime_ns for path in target.glob("data-*.array_record")}
    assert len(stamps) >= shards_before_kill
    _done(pictures, target, *flags)
    assert _content(target) == _content(tmp_path / "whole")
    assert stamps == {path: path.stat().st_mtime_ns for path in stamps}


def test_killed_after_every_shard(pictures, tmp_path):
    flags = "--shard_size=0.1", "--max_dropped=0.1", "--threads=2"
    _done(pictures, tmp_path / "whole", *flags)
    target = tmp_path / "killed"
    kills, finished = 0, 0
    while True:
        process = forked.Forked(_command(pictures, target, *flags))
        while process.poll() is None and len([*target.glob("data-*.array_record")]) == finished:
            time.sleep(0.001)
        process.kill()
        process.communicate()
        if process.returncode == 0:
            break
        kills += 1
        finished = len([*target.glob("data-*.array_record")])
    assert kills >= 2
    _run(pictures, target, *flags)  # killed in its last moment, it may have left something
    assert _content(target) == _content(tmp_path / "whole")


def test_a_finished_target_is_left_as_it_is(pictures, tmp_path):
    _done(pictures, tmp_path, "--limit=5")
    before = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    done = _run(pictures, tmp_path, "--limit=5", "--threads=1", "--max_dropped=0.5")
    assert (done.returncode, done.stderr) == (0, "")
    assert re.fullmatch(r"\S+ is finished: 5 records in 1 shards, .* 0 skipped\n", done.stdout)
    assert before == {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    message = _refused(1, pictures, tmp_path, "--limit=6")
    assert message.startswith(f"{tmp_path} was made with --limit=5, not with --limit=6; give ano")
    message = _refused(1, EMBEDDED, tmp_path, "--limit=5")
    assert f"with --source={pictures}, not with --source={EMBEDDED}" in message
    assert before == {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    assert _done(pictures, tmp_path, "--limit=6", "--restart")[0] == 6


def test_a_source_that_changed_since_is_noticed(pictures, tmp_path):
    """Whether the target is finished, or a run was stopped before that was."""
    source, words = tmp_path / "data.jsonl", pictures.read_text()
    changed = words.replace('"99.jpg"', '"1.jpg"')
    source.write_text(words)
    finished, begun = tmp_path / "finished", tmp_path / "begun"
    root = f"--media_root={pictures.parent}"
    _done(source, finished, root, "--limit=5")
    _refused(1, source, begun, root, "--shard_size=0.05")  # too many are broken
    shutil.rmtree(begun / INDEX_DIR)
    before = _content(finished), _content(begun)
    source.write_text(changed)
    message = _refused(1, source, finished, root, "--limit=5")
    assert "is finished, but its source has changed since (fingerprint " in message
    message = _refused(1, source, begun, root, "--shard_size=0.05")
    assert "the source has changed since the first run (fingerprint " in message
    shutil.rmtree(begun / INDEX_DIR)
    assert (_content(finished), _content(begun)) == before
    source.write_text(words)
    assert "is finished" in _run(source, finished, root, "--limit=5").stdout
    assert _done(source, begun, root, "--shard_size=0.05", "--max_dropped=0.1")[0] == 118
    source.unlink()
    assert "is finished" in _run(source, finished, root, "--limit=5").stdout


def test_a_restart_spares_what_is_not_ours(pictures, tmp_path):
    (tmp_path / "manifest.json").write_text('{"name": "web app"}')
    (tmp_path / "skipped.jsonl").write_text("mine")
    before = _content(tmp_path)
    message = _refused(1, pictures, tmp_path, "--restart")
    assert "manifest.json was not written by prepare, so nothing is deleted" in message
    assert _content(tmp_path) == before


def test_a_full_disk_leaves_what_is_finished(tmp_path):
    """Files of this process cannot grow beyond a size: the nearest thing to a full disk."""

    limit = ("bash", "-c", 'ulimit -f 200; exec "$@"', "--")  # blocks of 1,024 bytes
    # Shards of the first pictures fit; the last picture does not.
    folder = tmp_path / "pictures"
    sizes = [(16, 16)] * 5 + [(700, 700)]
    files = {f"{n}.bmp": source_files.picture(n, "BMP", size) for n, size in enumerate(sizes)}
    files |= {f"{n}.txt": "An owl." for n in range(len(sizes))}
    source_files.write_files(folder, files)
    target, flags = tmp_path / "target", ("--shard_size=0.002", "--threads=1")
    message = _refused(1, folder, target, *flags, before=limit)
    assert "data-00005.array_record.partial: cannot be written" in message
    assert "File too large" in message
    assert len([*target.glob("data-*.array_record")]) == 5
    assert not [*target.glob("*.partial")]
    _done(folder, tmp_path / "whole", *flags)
    _done(folder, target, *flags)
    assert _content(target) == _content(tmp_path / "whole")


def test_a_target_that_cannot_be_written(pictures, tmp_path):
    (tmp_path / "file").write_text("")
    message = _refused(1, EMBEDDED, tmp_path / "file" / "target")
    assert "target: cannot be written (Not a directory)" in message


def test_mistakes_are_one_line(pictures, tmp_path):
    target = tmp_path / "target"
    assert "no such file or directory; expected .jsonl" in _refused(1, tmp_path / "none", target)
    assert "--max_side needs --reencode" in _refused(1, pictures, target, "--max_side=9")
    assert "holds other files" in _refused(1, pictures, pictures.parent)
    assert "--reencode" in _refused(2, pictures, target, "--reencode=101")
    assert "shard_siz" in _refused(2, pictures, target, "--shard_siz=1")
    assert not target.exists()


def test_names_that_are_no_letters(tmp_path):
    folder = tmp_path / b"\xff".decode("utf-8", "surrogateescape")
    source_files.write_files(folder, {"1.jpg": source_files.picture(1), "1.txt": "An owl."})
    source_files.write_files(folder, {"2.jpg": b"", "2.txt": "An owl."})
    (folder / "2.jpg").rename(folder / b"2\xff.jpg".decode("utf-8", "surrogateescape"))
    done = _run(folder, tmp_path / "target", "--max_dropped=0.9")
    assert (done.returncode, done.stderr) == (0, "")
    prepared = open_source(str(tmp_path / "target"))
    assert prepared[0]["where"] == f"{tmp_path}/\\udcff/1"
    lines = (tmp_path / "target" / SKIPPED_FILE).read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["where"] for line in lines] == [f"{folder}/2", f"{folder}/2\udcff"]
    assert "is finished" in _run(folder, tmp_path / "target", "--max_dropped=0.9").stdout


def test_an_interrupt_from_the_keyboard(pictures, tmp_path):
    flags = "--shard_size=0.05", "--max_dropped=0.1", "--reencode=95"
    for attempt in range(10):  # on a busy machine it may be done before the signal
        target = tmp_path / f"target{attempt}"
        process = forked.Forked(_command(pictures, target, *flags))
        while process.poll() is None and not [*target.glob("data-*.array_record")]:
            time.sleep(0.001)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate()
        if process.returncode:
            break
    assert (process.returncode, errors) == (130, "error: interrupted\n")
    assert _done(pictures, target, *flags)[0] == 118


def test_progress_is_told_now_and_then(tmp_path, monkeypatch, capsys):

    from owl_jax.data.shards.write import Progress

    now = 100.0
    monkeypatch.setattr(prepare.time, "monotonic", lambda: now)
    with prepare._Progress() as progress:
        for done in range(101, 301):
            progress.show(Progress(done, 4_000, 2))
            now += 0.1  # at 5.1 s, 51 records after the first
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "152 of 4,000 records, 2 skipped, 10 a second, 0:06:25 left"
    assert len(lines) == 3


def test_a_journal_that_another_process_deletes_meanwhile(specs, tmp_path, monkeypatch, capsys):
    """A run that has just finished deletes its journal."""
    target = tmp_path / "target"
    _done(specs["json_lines"], target)
    looks = []

    def vanished(*_):
        looks.append(target)
        if len(looks) == 1:
            raise FileNotFoundError(errno.ENOENT, "No such file or directory")
        return find_finished(target, specs["json_lines"], Options())

    monkeypatch.setattr("owl_jax.data.shards.target.find_finished", vanished)
    with flagsaver.flagsaver():
        flags.FLAGS(["prepare", f"--source={specs['json_lines']}", f"--target={target}"])
        prepare.main(["prepare"])
    assert capsys.readouterr().out.startswith(f"{target} is finished: ")
    assert len(looks) == 2


@pytest.mark.parametrize("flags", [(), ("--restart",)])
def test_of_several_at_once_one_writes(flags, specs, tmp_path):
    """The others end with one line and disturb neither its shards nor its indices."""
    target = tmp_path / "target"
    if flags:
        _done(specs["json_lines"], target)
    runs = [forked.Forked(_command(specs["json_lines"], target, *flags)) for _ in range(3)]
    told = [run.communicate(timeout=240) for run in runs]
    for run, (out, err) in zip(runs, told, strict=True):
        if run.returncode == 0:
            assert err == ""
        else:
            assert (run.returncode, out) == (1, "")
            assert err == f"error: {target}: another process is writing there; wait for it\n"
    assert 0 in [run.returncode for run in runs]
    _done(specs["json_lines"], tmp_path / "alone")
    assert _content(target) == _content(tmp_path / "alone")
