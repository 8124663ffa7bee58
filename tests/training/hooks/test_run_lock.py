"""One run at a time in a workdir: real processes on this machine, records of other machines."""

import errno
import fcntl
import json
import os
import re
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from owl_jax.errors import UserError
from owl_jax.training.hooks.run_lock import FILE_NAME, RunLock

# Each of eight waits for the same moment, tries, and holds what it has until all have tried.
RACE = """
import os, sys
from pathlib import Path
from owl_jax.errors import UserError
from owl_jax.training.hooks.run_lock import RunLock

go, done, over = os.pipe(), os.pipe(), os.pipe()
for number in range(8):
    if os.fork() == 0:
        os.close(go[1])
        os.close(over[1])
        os.read(go[0], 1)  # until it is closed
        try:
            with RunLock(Path(sys.argv[1])):
                os.write(1, b"won %d\\n" % os.getpid())
                os.write(done[1], b".")
                os.read(over[0], 1)  # likewise
        except UserError as error:
            os.write(1, f"{error}\\n".encode())
            os.write(done[1], b".")
        os._exit(0)
os.close(go[0])
os.close(go[1])
for _ in range(8):
    os.read(done[0], 1)
os.close(over[1])
for _ in range(8):
    os.wait()
"""

HOLD = """
import sys
from pathlib import Path
from owl_jax.training.hooks.run_lock import RunLock
with RunLock(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def python(script, workdir):
    command = [sys.executable, "-c", script, str(workdir)]
    return subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def record_of(workdir):
    return json.loads((workdir / FILE_NAME).read_bytes())


def leave_behind(workdir, **changed):
    """A record as a run leaves it that ended without a word."""
    with RunLock(workdir):
        record = record_of(workdir)
    (workdir / FILE_NAME).write_text(json.dumps(record | changed))
    return record


def taken(workdir, **options):
    """Takes the workdir, checks that it is taken, and returns what was reported."""
    told = []
    with RunLock(workdir, told.append, **options):
        assert record_of(workdir)["pid"] == os.getpid()
        assert "ended" not in record_of(workdir)
    assert "ended" in record_of(workdir)
    return told


def test_of_eight_that_start_at_once_one_wins_and_is_named(tmp_path):
    for _ in range(3):
        process = python(RACE, tmp_path / "run")
        out, err = process.communicate("", timeout=60)
        assert (process.returncode, err) == (0, "")
        (winner,) = re.findall(r"^won (\d+)$", out, re.M)
        others = [line for line in out.splitlines() if not line.startswith("won")]
        assert len(others) == 7
        for line in others:
            assert line.startswith(f"{tmp_path}/run is in use by another run: process {winner} on ")
            assert record_of(tmp_path / "run")["since"] in line
            assert line.endswith("Wait for it, end it, or give another --workdir")


def test_a_killed_run_leaves_nothing_to_wait_for(tmp_path):
    process = python(HOLD, tmp_path)
    assert process.stdout.readline() == "held\n"
    with pytest.raises(UserError, match=f"in use by another run: process {process.pid} on "):
        taken(tmp_path)
    process.kill()
    process.communicate()
    (line,) = taken(tmp_path)
    assert f"process {process.pid} on " in line
    assert line.endswith(", which was killed or lost; this run takes over")
    assert taken(tmp_path) == []


@pytest.mark.parametrize("error", [None, UserError("a fault"), KeyboardInterrupt()])
def test_an_end_of_any_kind_frees_the_workdir(tmp_path, error):
    try:
        with RunLock(tmp_path):
            if error:
                raise error
    except (UserError, KeyboardInterrupt) as got:
        assert got is error
    assert taken(tmp_path) == []


@pytest.mark.parametrize("changed", [{"host": "another"}, {"boot": "another"}])
def test_a_silent_run_of_another_machine_is_waited_for(tmp_path, changed):
    leave_behind(tmp_path, **changed)
    waiting, over = taken(tmp_path, silence=0.1)
    assert "waiting 0 s for a heartbeat" in waiting
    assert over.endswith("; this run takes over")
    # One that has ended is not.
    leave_behind(tmp_path, ended="now", **changed)
    assert taken(tmp_path) == []


def test_a_run_of_another_machine_that_lives_is_named(tmp_path):
    """Its kernel's lock is not seen here; its heartbeat is."""
    record = leave_behind(tmp_path, host="far-away", pid=12)

    def beat(line):
        text = json.dumps(record | {"host": "far-away", "pid": 12, "beats": 1})
        (tmp_path / FILE_NAME).write_text(text)

    with (
        pytest.raises(UserError, match="in use by another run: process 12 on far-away, since 20"),
        RunLock(tmp_path, beat, silence=30),
    ):
        pass
    assert record_of(tmp_path)["host"] == "far-away"  # its record is left alone


def test_it_beats_and_finds_that_it_was_taken_over(tmp_path):
    with RunLock(tmp_path, beat=0.01) as lock:
        seen = threading.Event()
        while record_of(tmp_path)["beats"] < 3:
            seen.wait(0.01)
        lock.check()
        other = record_of(tmp_path) | {"host": "far-away", "run": "other"}
        while record_of(tmp_path)["run"] != "other":  # a heartbeat may come in between
            (tmp_path / FILE_NAME).write_text(json.dumps(other))
            seen.wait(0.05)
        lock._thread.join(10)
        with pytest.raises(UserError, match=r"taken over .* on far-away, since .*without saving"):
            lock.check()
    assert record_of(tmp_path) == other  # not marked as ended


@pytest.mark.parametrize(
    "content",
    [b"", b"\0" * 1024, b"\xff\xfe", b"[1, 2]", b'{"host": ', b'{"pid": 1}', b"[" * 100_000],
)
def test_a_file_that_says_nothing_is_no_obstacle(tmp_path, content):
    (tmp_path / FILE_NAME).write_bytes(content)
    assert taken(tmp_path) == []


def test_a_name_that_would_steer_the_terminal(tmp_path):
    leave_behind(tmp_path, host="\x1b]0;x\x07" + "long" * 100, pid=["not", "a", "number"])
    for line in taken(tmp_path, silence=0.05):
        assert "\x1b" not in line and len(line) < 600


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo])
def test_something_else_of_that_name_is_one_line(tmp_path, make):
    make(tmp_path / FILE_NAME)
    with pytest.raises(UserError, match=r"cannot write checkpoints to .*run\.lock.*(Is|is) a"):
        taken(tmp_path)


def test_a_workdir_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot write .*Not a directory; give another"):
        taken(tmp_path / "file" / "run")


@pytest.mark.parametrize("number", [errno.ENOTSUP, errno.ENOLCK])
def test_without_locks_the_heartbeat_decides(tmp_path, monkeypatch, number):
    """As on a file system that has none, which a test cannot mount."""

    def refuse(descriptor, operation):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    assert taken(tmp_path) == []
    with RunLock(tmp_path, beat=0.01), pytest.raises(UserError, match="in use by another run"):
        taken(tmp_path, silence=30)
    leave_behind(tmp_path)
    assert len(taken(tmp_path, silence=0.05)) == 2
