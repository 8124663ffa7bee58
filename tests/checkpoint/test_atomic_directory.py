"""Directories that appear whole or not at all: races, killed runs, strange places."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from owl_jax.checkpoint.atomic_directory import check_free, whole_directory
from owl_jax.errors import UserError

# Writes half of a directory and is killed with its lock in its hands.
HALF = """
import os, signal, sys
from pathlib import Path
from owl_jax.checkpoint.atomic_directory import whole_directory
with whole_directory(Path(sys.argv[1])) as partial:
    (partial / "half").write_text("half")
    print(partial, flush=True)
    sys.stdin.read()
    os.kill(os.getpid(), signal.SIGKILL)
"""


def _write(directory, content="x"):
    with whole_directory(directory) as partial:
        (partial / "file").write_text(content)


def test_exactly_one_of_many_wins(tmp_path):
    """All have begun before the first ends, and end at once."""
    runs, target, told = 8, tmp_path / "model", []
    begun = threading.Barrier(runs)

    def run(number):
        try:
            with whole_directory(target) as partial:
                (partial / "file").write_text(str(number))
                begun.wait(60)
            told.append(f"won {number}")
        except UserError as error:
            told.append(str(error))

    threads = [threading.Thread(target=run, args=(number,)) for number in range(runs)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (winner,) = [line for line in told if line.startswith("won ")]
    assert (target / "file").read_text() == winner.removeprefix("won ")
    others = [line for line in told if line != winner]
    assert len(others) == runs - 1
    assert all("another run has created" in line for line in others)
    assert list(tmp_path.iterdir()) == [target]


def test_an_error_leaves_nothing_and_an_empty_target_is_replaced(tmp_path):
    target = tmp_path / "deep" / "model"
    target.mkdir(parents=True)
    with pytest.raises(KeyError), whole_directory(target) as partial:
        (partial / "file").touch()
        raise KeyError
    assert (list(target.iterdir()), list(target.parent.iterdir())) == ([], [target])
    _write(target)
    assert [path.name for path in target.iterdir()] == ["file"]


def test_what_a_killed_run_left_is_removed_and_a_living_one_s_stays(tmp_path, capfd):
    target = tmp_path / "model"
    process = subprocess.Popen(
        [sys.executable, "-c", HALF, str(target)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        left = process.stdout.readline().strip()
        _write(tmp_path / "model")
        assert Path(left).exists()  # it lives
        assert capfd.readouterr().err == ""
        process.stdin.close()
        assert process.wait(60) == -signal.SIGKILL
    finally:
        process.kill()
    assert Path(left).exists()
    (target / "file").unlink()
    _write(target)
    assert list(tmp_path.iterdir()) == [target]
    assert capfd.readouterr().err == f"note: removed {left}, left by a killed run\n"


@pytest.mark.parametrize(
    ("name", "age", "stays"),
    [
        (".model.0123456789ab.00000000.partial", 0, True),  # another host's
        (".model.0123456789ab.00000000.partial", 25 * 3600, False),
        (".models.0123456789ab.00000000.partial", 25 * 3600, True),  # another target's
        (".model.partial", 25 * 3600, True),  # not one of ours
    ],
)
def test_what_another_host_left_is_removed_after_a_day(name, age, stays, tmp_path):
    left = tmp_path / name
    left.mkdir()
    (left / "file").touch()
    then = time.time() - age
    for path in (left / "file", left):
        os.utime(path, (then, then))
    _write(tmp_path / "model")
    assert left.exists() == stays


def test_links_are_followed(tmp_path):
    (tmp_path / "real").mkdir()
    for name, goal in (("link", "real"), ("dangling", "new")):
        (tmp_path / name).symlink_to(goal)
        _write(tmp_path / name)
        assert (tmp_path / name).is_symlink()
        assert (tmp_path / goal / "file").read_text() == "x"


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("x" * 300, "File name too long"),
        ("é" * 200, "File name too long"),
        ("file", "exists already"),
        ("file/deeper", "Not a directory"),
        ("loop/deeper", "Too many levels of symbolic links"),
        ("null\0", "null"),
        ("fifo", "exists already"),
        ("empty", "is the working directory, which cannot be replaced"),
        ("/dev/shm/..", "exists already"),
        ("/dev/null/model", "Not a directory"),
    ],
)
def test_no_place_for_a_directory_is_one_line(target, words, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "empty").mkdir()
    os.mkfifo(tmp_path / "fifo")
    before = sorted(tmp_path.rglob("*"))
    monkeypatch.chdir(tmp_path / "empty")
    for door in (check_free, _write):
        # What is known only when it is tried is not known before.
        if door is check_free and target == "/dev/null/model":
            continue
        with pytest.raises(UserError, match=re.escape(words)) as told:
            door(tmp_path / target)
        assert "\n" not in str(told.value)
    assert sorted(tmp_path.rglob("*")) == before


def test_the_longest_names_fit(tmp_path):
    for name in ("x" * 255, "é" * 127, "\x1b]0;title\x07"):
        _write(tmp_path / name)
        assert (tmp_path / name / "file").exists()
