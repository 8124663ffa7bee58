"""Records to batches: what is dropped and how that is reported, epochs, processes, workers,
resuming."""

import io
import itertools
import json
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from owl_jax.data.batch import SequenceShape
from owl_jax.data.decoding import Decoding
from owl_jax.data.drops import DropLog
from owl_jax.data.mixture import WeightedSource
from owl_jax.data.pipeline import Reading, make_batches
from owl_jax.data.sources.detect import open_source
from owl_jax.data.sources.json_lines import JsonLinesSource
from owl_jax.demo.dialogues import KINDS
from owl_jax.demo.synthetic import SyntheticSource
from owl_jax.errors import UserError
from owl_jax.media.augment import Augmentation
from owl_jax.text.media_index import MediaLengths
from owl_jax.text.tokenizer import load_tokenizer, train_sentencepiece

SHAPE = SequenceShape(
    length=48, media=MediaLengths(3, 3), image_size=8, image_slots=2, video_slots=1, frames=2
)
WIDE = SequenceShape(
    length=400, media=MediaLengths(3, 3), image_size=8, image_slots=2, video_slots=1, frames=2
)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    directory = tmp_path_factory.mktemp("tokenizer")
    texts = ["Human: What number is it?", "AI: It is 0123456789 abc"]
    train_sentencepiece(texts, 300, directory / "tokenizer.model")
    return load_tokenizer(directory)


def record(text, images=(), videos=(), where="here:7"):
    return {
        "text": text,
        "images": list(images),
        "videos": list(videos),
        "task_type": "",
        "where": where,
    }


class Records(list):
    """Records as a source."""

    def where(self, index):
        return self[index]["where"]


def numbered(numbers):
    """A source of words alone, each record's answer its number."""
    return Records(
        record(f"Human: Say it.\nAI: {number}", where=f"list:{number}") for number in numbers
    )


@pytest.fixture
def batches(tokenizer):
    """Makes iterators, one conversation a row if not said otherwise, and closes them in the end."""
    made = []

    def make(sources, batch_size=4, seed=1, limit=0.0, log=None, shape=SHAPE, open_rows=0,
             augmentation=None, made_with=None, **reading):  # fmt: skip
        stream = make_batches(
            [WeightedSource(source, weight) for source, weight in sources],
            tokenizer,
            shape,
            Decoding(shape.image_size, shape.frames, augmentation, (seed,)),
            batch_size,
            seed,
            DropLog(limit) if log is None else log,
            open_rows,
            Reading(**reading),
            made_with or {},
        )
        made.append(stream)
        return stream

    yield make
    for stream in made:
        stream.close()


@pytest.fixture
def answers(tokenizer):
    """The numbers that the next `count` batches teach, in order."""

    def read(stream, count):
        found = []
        for batch in itertools.islice(stream, count):
            for row in range(len(batch.segment_ids)):
                for segment in range(1, batch.segment_ids[row].max() + 1):
                    taught = (batch.segment_ids[row] == segment) & (batch.loss_mask[row] == 1)
                    found.append(int(tokenizer.decode(batch.targets[row][taught])))
        return found

    return read


def assert_same(batch, other):
    jax.tree.map(np.testing.assert_array_equal, batch, other)


def save_bytes(path, image, format, **arguments):
    buffer = io.BytesIO()
    image.save(buffer, format, **arguments)
    path.write_bytes(buffer.getvalue())
    return path


def write_lines(path, values):
    path.write_text("".join(json.dumps(value) + "\n" for value in values))
    return JsonLinesSource(path, path.parent)


@pytest.fixture
def mixed(tmp_path):
    """Thirty-six records of which those on the lines 3, 6, ... 24 cannot be used."""
    photo = save_bytes(tmp_path / "whole.jpg", Image.effect_noise((64, 64), 50), "JPEG")
    (tmp_path / "cut.jpg").write_bytes(photo.read_bytes()[:700])
    (tmp_path / "words.jpg").write_text("I am no picture.")
    save_bytes(tmp_path / "good.png", Image.new("RGB", (12, 10), (100, 90, 80)), "PNG")
    bad = iter(
        [
            {"text": "Human: <image>\nAI: 901", "image": "missing.jpg"},
            {"text": "Human: <image>\nAI: 902", "image": "cut.jpg"},
            {"text": "Human: <image>\nAI: 903", "image": "words.jpg"},
            {"text": "Human: <image>\nAI: 904"},
            {"text": "Human: What?\nAI: 905", "image": "good.png"},
            {"text": "Human: What?"},
            {"text": "Human: <image><image><image>\nAI: 907", "image": ["good.png"] * 3},
            {"words": "Human: What?\nAI: 908"},
        ]
    )
    lines = [
        next(bad)
        if number % 3 == 0 and number <= 24
        else {"text": f"Human: <image>\nAI: {number}", "image": "good.png"}
        for number in range(1, 37)
    ]
    return write_lines(tmp_path / "mixed.jsonl", lines)


REASONS = {
    3: "missing file",
    6: "damaged picture",
    9: "not a picture",
    12: "media marks",
    15: "media marks",
    18: "no answer",
    21: "too many media",
    24: "not an example",
}


@pytest.mark.parametrize("open_rows", [0, 4])
def test_bad_records_are_dropped_listed_and_never_replaced(
    batches, answers, mixed, tmp_path, open_rows
):
    lists = []
    for run in ("one", "two"):
        file = tmp_path / run / "skipped.jsonl"
        log = DropLog(0.4, file)
        stream = batches([(mixed, 1)], log=log, open_rows=open_rows)
        taught = Counter(answers(stream, 60))
        # Whatever the epoch, a good record comes as often as the others, a bad one never.
        assert set(taught) == {n for n in range(1, 37) if n % 3 or n > 24}
        assert max(taught.values()) - min(taught.values()) <= 2 if open_rows else 1
        lists.append(sorted(file.read_text().splitlines()))
        found = [json.loads(line) for line in lists[-1]]
        assert {int(line["where"].rpartition(":")[2]): line["reason"] for line in found} == REASONS
        assert all(line["where"].startswith(f"{tmp_path}/mixed.jsonl:") for line in found)
        assert log.reasons.keys() == set(REASONS.values())
    assert lists[0] == lists[1]


def test_an_epoch_without_bad_records_is_whole(batches, answers):
    taught = answers(batches([(numbered(range(24)), 1)]), 12)
    assert sorted(taught[:24]) == sorted(taught[24:]) == list(range(24))
    assert taught[:24] != taught[24:]


def test_too_many_dropped_records_stop_the_run(batches, mixed):
    log = DropLog(limit=0.1)
    stream = batches([(mixed, 1)], log=log)
    with pytest.raises(UserError) as error:
        for _ in range(200):
            next(stream)
    assert 100 <= log.seen < 300
    message = str(error.value)
    assert re.match(rf"{log.reasons.total()} of {log.seen} records were dropped \(", message)
    for reason, count in log.reasons.items():
        assert f"{reason}: {count}" in message
    assert "data.max_dropped=0.1" in message and re.search(r"mixed\.jsonl:\d+: ", message)
    assert "\n" not in message


def test_a_few_dropped_records_do_not_stop_the_run(batches, answers):
    source = [*numbered(range(199)), record("Human: What?", where="list:199")]
    log = DropLog(limit=0.01)
    assert set(answers(batches([(source, 1)], log=log), 100)) == set(range(199))
    assert log.reasons["no answer"] >= 2


@pytest.mark.parametrize("limit", [0.0, 0.99, 1.0])
@pytest.mark.parametrize("size", [40, 5000])
def test_data_of_which_nothing_can_be_used_ends_soon(batches, limit, size):
    source = [record("Human: <image>\nAI: 1", where=f"list:{i}") for i in range(size)]
    start = time.monotonic()
    with pytest.raises(UserError, match=r"100 of 100 records were dropped \(media marks: 100\)"):
        next(batches([(source, 1)], log=DropLog(limit)))
    assert time.monotonic() - start < 30


def test_a_file_of_nonsense_ends_soon(batches, tmp_path):
    (tmp_path / "data.jsonl").write_text("nonsense\n" * 10)
    source = JsonLinesSource(tmp_path / "data.jsonl", tmp_path)
    with pytest.raises(UserError, match=r"malformed record: 100.*data\.jsonl:\d+: "):
        next(batches([(source, 1)]))


def test_packed_rows_teach_each_record_of_an_epoch_once(batches, answers):
    """Conversations that wait in open rows come later, none twice and none never."""
    stream = batches([(numbered(range(240)), 1)], open_rows=4)
    first = next(stream)
    assert first.segment_ids.max() > 1
    assert (first.segment_ids > 0).mean() > 0.5
    taught = Counter(answers(stream, 120)) + Counter(answers(iter([first]), 1))
    assert set(taught) == set(range(240))
    # One more at either end of what was read: an epoch begins before the last one's rows are full.
    assert max(taught.values()) - min(taught.values()) <= 2


def pictures(count, tmp_path):
    """Records with a picture of their own each, some of them with two, some with a clip."""
    random = np.random.default_rng(0)
    records = []
    for number in range(count):
        image = Image.fromarray(random.integers(0, 256, (20, 24, 3), np.uint8))
        file = save_bytes(tmp_path / f"{number}.png", image, "PNG")
        media = ([file] * (number % 3), []) if number % 4 else ([], [[file, file]])
        marks = "Human: <image>\n" * len(media[0]) + "Human: <|video|>\n" * len(media[1])
        text = f"{marks}Human: Is {'left' if number % 5 == 0 else 'that'} so?\nAI: {number}"
        records.append(record(text, *media, where=f"list:{number}"))
    return records


@pytest.fixture
def rich(tmp_path, mixed):
    """A mixture of everything, and the arguments of its stream: packed, augmented, some dropped."""
    source = open_source(
        SyntheticSource({"vqa": 1.0, "video": 1.0}, size=11, image_size=24, turns=1)
    )
    sources = [(mixed, 2), (source, 1), (pictures(40, tmp_path), 2)]
    arguments = {
        "limit": 0.5,
        "shape": WIDE,
        "open_rows": 4,
        "augmentation": Augmentation(rand_augment=True),
    }
    return sources, arguments


@pytest.mark.parametrize(
    "reading", [{"threads": 1}, {"threads": 4}, {"workers": 1}, {"workers": 2}]
)
def test_threads_and_workers_do_not_change_what_comes(batches, rich, reading):
    sources, arguments = rich
    expected = batches(sources, **arguments)
    found = batches(sources, **arguments, **reading)
    for ours, theirs in itertools.islice(zip(found, expected, strict=True), 10):
        assert_same(ours, theirs)


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_resumes_bit_equal_in_the_middle_of_a_row(batches, rich, workers):
    """Whatever the workers before and after."""
    sources, arguments = rich
    stream = batches(sources, **arguments, workers=workers)
    for _ in range(5):
        next(stream)
    state = json.loads(json.dumps(stream.get_state()))  # as it lies in a checkpoint
    assert any(row["numbers"] for row in state["rows"]["open"])
    expected = [next(stream) for _ in range(8)]

    resumed = batches(sources, **arguments, workers=(workers + 1) % 3)
    resumed.set_state(state)
    for batch in expected:
        assert_same(next(resumed), batch)
    # An iterator that was used before.
    stream.set_state(state)
    assert_same(next(stream), expected[0])


def test_a_position_in_other_data_is_refused(batches, rich):
    sources, arguments = rich
    made_with = {"config.seed": 1, "config.data.sequence_length": 400}
    state = batches(sources, **arguments, made_with=made_with).get_state()
    other = batches(
        sources, **arguments, made_with={**made_with, "config.data.sequence_length": 48}
    )
    with pytest.raises(
        UserError, match=r"config\.data\.sequence_length = 400, but now it is 48"
    ) as error:
        other.set_state(state)
    assert "--config.data.resume=False" in str(error.value)
    batches(sources, **arguments, made_with=made_with).set_state(state)
    with pytest.raises(UserError, match=r"config\.seed = unknown, but now it is 1"):
        batches(sources, **arguments, made_with=made_with).set_state({"rows": state["rows"]})


def test_a_worker_that_is_killed_is_told_in_one_line(batches, rich):
    sources, arguments = rich
    stream = batches(sources, **arguments, workers=2)
    next(stream)
    for child in multiprocessing.active_children():
        os.kill(child.pid, signal.SIGKILL)
    with pytest.raises(UserError, match=r"was killed.*config\.data\.workers below 2"):
        for _ in range(20):
            next(stream)


WORKER = """
import os, sys
from owl_jax.data.decoding import make_executor
from owl_jax.text.media_index import MediaLengths

if __name__ == "__main__":
    pool = make_executor(1, 2)
    print(*{pool.submit(os.getpid).result() for _ in range(20)}, flush=True)
    sys.stdin.read()
"""


def test_workers_do_not_outlive_a_run_that_is_killed(tmp_path):
    (tmp_path / "run.py").write_text(WORKER)
    run = subprocess.Popen(
        [sys.executable, tmp_path / "run.py"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    workers = [int(pid) for pid in run.stdout.readline().split()]
    run.kill()
    run.wait()
    run.stdin.close()
    run.stdout.close()
    deadline = time.monotonic() + 30
    while any(Path(f"/proc/{pid}").exists() for pid in workers) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert workers and not any(Path(f"/proc/{pid}").exists() for pid in workers)


def test_the_same_seed_gives_the_same_batches(batches):
    source = open_source(SyntheticSource(dict.fromkeys(KINDS, 1.0), size=40, image_size=24))
    one, same, other = (
        batches([(source, 1)], seed=seed, limit=0.9, shape=WIDE, open_rows=8) for seed in (1, 1, 2)
    )
    for first, second, third in itertools.islice(zip(one, same, other, strict=True), 4):
        assert_same(first, second)
        assert not np.array_equal(first.input_ids, third.input_ids)


def test_processes_share_the_data_out(batches, answers):
    source = numbered(range(24))
    first, second = (
        answers(batches([(source, 1)], shard_index=process, num_shards=2), count=3)
        for process in (0, 1)
    )
    assert set(first).isdisjoint(second)
    assert sorted(first + second) == list(range(24))
    alone = answers(batches([(source, 1)]), count=6)
    assert alone[::2] == first and alone[1::2] == second


def test_processes_together_have_the_mixture(batches, answers):
    sources = [(numbered(range(100, 107)), 1), (numbered(range(200, 207)), 3)]
    taught = [
        number
        for process in range(4)
        for number in answers(batches(sources, shard_index=process, num_shards=4), 5)
    ]
    assert Counter(number // 100 for number in taught) == {1: 20, 2: 60}


def test_rows_have_the_shape_they_were_asked_for(batches):
    batch = next(batches([(numbered(range(3)), 1)], batch_size=5))
    assert batch.input_ids.shape == (5, 48)
    assert batch.images.shape == (5, 2, 8, 8, 3) and batch.videos.shape == (5, 1, 2, 8, 8, 3)


def test_a_closed_stream_leaves_no_process_behind(batches, rich):
    sources, arguments = rich
    stream = batches(sources, **arguments, workers=2)
    next(stream)
    assert len(multiprocessing.active_children()) >= 2
    stream.close()
    deadline = time.monotonic() + 20
    while multiprocessing.active_children() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not multiprocessing.active_children()
