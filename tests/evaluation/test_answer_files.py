"""Files of answers survive kills and other numbers of processes; nothing is asked twice."""

import dataclasses
import random
import signal
from pathlib import Path

import forked
import pytest
import tiny
from questions import FRAMES, askings, picture_files

import owl_jax
from owl_jax.errors import UserError
from owl_jax.evaluation.answers import Answer, answers_file, appending, claim, read_answers
from owl_jax.evaluation.ask import Settings, ask

COUNT = 60

# Kills itself a few milliseconds after some of its answers, as another process would.
SCRIPT = f"""
import os, signal, sys, threading
from pathlib import Path
sys.path.insert(0, {str(Path(__file__).parent)!r})
from questions import FRAMES, askings
import owl_jax
from owl_jax.evaluation.ask import Settings, Teller, ask
model, pictures, output = map(Path, sys.argv[1:4])
killed_after, delay = float(sys.argv[4]), float(sys.argv[5])
teller = Teller()
def tell(progress):
    teller(progress)
    if progress.answered == killed_after:
        threading.Timer(delay, os.kill, (os.getpid(), signal.SIGKILL)).start()
asked = askings({COUNT}, sorted(pictures.iterdir()))
settings = Settings("rank", num_frames=FRAMES)
ask(owl_jax.load(model, "float32"), asked, settings, output, {{}}, tell=tell)
"""


class Killed(Exception):
    """Ends a run in the middle."""


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    llm = dataclasses.replace(tiny.CONFIG.llm, max_positions=320)
    config = dataclasses.replace(tiny.CONFIG, llm=llm)
    return tiny.write_model(tmp_path_factory.mktemp("models") / "tiny", config)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    picture_files(folder, 4)
    return folder


@pytest.fixture(scope="module")
def run(model, pictures):
    """Asks the first questions; ends after some of this run's answers."""
    owl, asked = owl_jax.load(model, "float32"), askings(COUNT, sorted(pictures.iterdir()))

    def run(directory, count=COUNT, end_after=None, **shard):
        def tell(progress):
            if progress.answered == end_after:
                raise Killed

        settings = Settings("rank", num_frames=FRAMES)
        return ask(owl, asked[:count], settings, directory, {}, tell=tell, **shard)

    return run


@pytest.fixture(scope="module")
def undisturbed(run, tmp_path_factory):
    directory = tmp_path_factory.mktemp("undisturbed")
    run(directory)
    return directory


def lines(directory):
    """All lines of all files of answers, sorted."""
    paths = directory.glob("answers*.jsonl")
    return sorted(line for path in paths for line in path.read_text().splitlines())


def test_three_kills_change_nothing(model, pictures, undisturbed, tmp_path):
    command = ["-c", SCRIPT, *map(str, (model, pictures, tmp_path))]
    moments = random.Random(5)
    counts = [0]
    for _ in range(3):
        moment = moments.randint(1, 8), moments.uniform(0, 0.01)
        assert forked.run(*command, *map(str, moment)).returncode == -signal.SIGKILL
        counts.append(len(read_answers(tmp_path)))
    assert counts == sorted(set(counts)) and counts[-1] < COUNT
    ended = forked.run(*command, "-1", "0")
    assert ended.returncode == 0, ended.stderr
    assert f"{COUNT} of {COUNT} answers" in ended.stderr and "s left" in ended.stderr
    assert lines(tmp_path) == lines(undisturbed)


@pytest.mark.parametrize("before", [1, 2, 3])
@pytest.mark.parametrize("after", [1, 2, 3])
def test_another_number_of_processes_goes_on(run, undisturbed, tmp_path, before, after):
    for shard in range(before):
        with pytest.raises(Killed):
            run(tmp_path, 12, end_after=2 + shard % 2, shard_index=shard, num_shards=before)
        with answers_file(tmp_path, shard, before).open("ab") as file:
            file.write(b'{"id": "q11", "answer": "A", "k')  # being written
    outcomes = [run(tmp_path, 12, shard_index=shard, num_shards=after) for shard in range(after)]
    expected = {f"q{number}" for number in range(12)}
    assert list(outcomes[-1].answers) == sorted(expected, key=lambda id: int(id[1:]))
    assert outcomes[-1].answers == {
        id: answer for id, answer in read_answers(undisturbed).items() if id in expected
    }
    whole = [line for line in lines(tmp_path) if line.endswith("}")]
    assert len(whole) == 12


def test_item_i_belongs_to_process_i_mod_n(run, tmp_path):
    for shard in (1, 0):
        run(tmp_path, 7, shard_index=shard, num_shards=2)
    for shard in (0, 1):
        ids = {answer.split('"')[3] for answer in answers_file(tmp_path, shard, 2).open()}
        assert ids == {f"q{number}" for number in range(shard, 7, 2)}


def test_a_file_that_another_process_writes_is_left_alone(run, tmp_path):
    run(tmp_path, 3)
    with (
        appending(answers_file(tmp_path, 0, 1)),
        pytest.raises(UserError, match=r"answers.jsonl: another process is writing it"),
    ):
        run(tmp_path, 4)


def test_only_a_torn_last_line_is_dropped(tmp_path):
    path = tmp_path / "answers.jsonl"
    path.write_text('{"id":"a","answer":"x","key":"k"}\n{"id":"b","ans')
    assert read_answers(tmp_path) == {"a": Answer("a", "x", "k")}
    with appending(path) as file:
        file.add(Answer("b", "y\n", "l", (0.5, 1.25)))
    assert path.read_text().splitlines()[1] == (
        '{"id":"b","answer":"y\\n","key":"l","losses":[0.5,1.25]}'
    )
    path.write_text('{"id":"a","ans\n{"id":"b","answer":"x","key":"k"}\n')
    with pytest.raises(UserError, match=r"answers.jsonl: line 1: .* it is no file of answers"):
        read_answers(tmp_path)


def test_a_directory_is_claimed_once(tmp_path):
    claim(tmp_path / "a" / "b", {"mode": "rank"})
    claim(tmp_path / "a" / "b", {"mode": "rank"})
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"--output=.*file is a file; expected a directory"):
        claim(tmp_path / "file", {"mode": "rank"})
