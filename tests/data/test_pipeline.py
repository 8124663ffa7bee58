"""Records to batches: what is dropped and how it is told, shares, epochs, processes, resuming."""

import io
import itertools
import json
import re
import time
from collections import Counter

import jax
import numpy as np
import pytest
from PIL import Image

from owl_jax.data.batch import Example, RowShape
from owl_jax.data.pipeline import DropLog, Dropped, Prepare, WeightedSource, make_batches
from owl_jax.data.sources import JsonLinesSource
from owl_jax.data.synthetic import KINDS, SyntheticSource
from owl_jax.errors import UserError
from owl_jax.processing.tokenizer import load_tokenizer, train_sentencepiece

SHAPE = RowShape(length=48, media_length=3, image_size=8, image_slots=2, video_slots=1, frames=2)
QUESTION = "\nHuman: What?\nAI: "


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    directory = tmp_path_factory.mktemp("tokenizer")
    texts = ["Human: What number is it?", "AI: It is 0123456789 abc"]
    train_sentencepiece(texts, 300, directory / "tokenizer.model")
    return load_tokenizer(directory)


@pytest.fixture(scope="module")
def prepare(tokenizer):
    return Prepare(tokenizer, SHAPE)


def picture(value=100):
    return Image.new("RGB", (12, 10), (value, value, value))


def record(text, images=(), videos=(), where="here:7"):
    return {
        "text": text,
        "images": list(images),
        "videos": list(videos),
        "task_type": "",
        "where": where,
    }


def numbered(numbers):
    """A source of words alone, each record's answer its number."""
    return [record(f"Human: Say it.\nAI: {number}", where=f"list:{number}") for number in numbers]


def batches(prepare, sources, batch_size=4, seed=1, limit=0.0, log=None, **arguments):
    weighted = [WeightedSource(source, weight) for source, weight in sources]
    log = DropLog(limit) if log is None else log
    return make_batches(weighted, prepare, batch_size, seed, log, **arguments)


def answers(prepare, stream, count):
    """The numbers that the next `count` batches teach, in order."""
    found = []
    for batch in itertools.islice(stream, count):
        for targets, mask in zip(batch.targets, batch.loss_mask, strict=True):
            found.append(int(prepare.tokenizer.decode(targets[mask == 1])))
    return found


def assert_same(batch, other):
    jax.tree.map(np.testing.assert_array_equal, batch, other)


def save_bytes(path, image, format, **arguments):
    buffer = io.BytesIO()
    image.save(buffer, format, **arguments)
    path.write_bytes(buffer.getvalue())
    return path


def test_an_example_is_what_processing_makes(prepare):
    example = prepare(
        record(
            f"Human: <image>\nHuman: <|video|>\nHuman: <image>{QUESTION}7",
            [picture(1), picture(2)],
            [[picture(3), picture(4)]],
        )
    )
    assert isinstance(example, Example)
    assert example.images.dtype == example.videos.dtype == np.uint8
    assert example.images.shape == (2, 8, 8, 3) and example.videos.shape == (1, 2, 8, 8, 3)
    assert [int(x) for x in example.images[:, 0, 0, 0]] == [1, 2]
    media = example.input_ids[example.input_ids < 0]
    assert media.tolist() == [-1] * 3 + [-2] * 3 + [-1] * 3
    taught = example.input_ids[example.loss_mask]
    assert prepare.tokenizer.decode(taught) == "7" and taught[-1] == prepare.tokenizer.eos_id


def test_media_of_a_part_that_is_cut_off_are_not_kept(prepare):
    text = f"Human: <image>{QUESTION}1\nHuman: {'abc ' * 30}\nHuman: <image>\nAI: 2"
    example = prepare(record(text, [picture(1), picture(2)]))
    assert example.images.shape == (1, 8, 8, 3)
    assert (example.input_ids == -1).sum() == 3


def test_media_that_are_cut_off_are_not_read(prepare, tmp_path):
    text = f"Human: <image>{QUESTION}1\nHuman: {'abc ' * 30}\nHuman: <image>\nAI: 2"
    example = prepare(record(text, [picture(1), tmp_path / "missing.jpg"]))
    assert isinstance(example, Example)


@pytest.mark.parametrize(
    ("text", "images", "videos", "reason", "words"),
    [
        ("Human: <image>\nAI: 1", 0, 0, "media marks", "1 <image> and 0 image"),
        ("Human: What?\nAI: 1", 1, 0, "media marks", "0 <image> and 1 image"),
        ("Human: <image><image>\nAI: 1", 1, 0, "media marks", "2 <image> and 1 image"),
        ("Human: <|video|>\nAI: 1", 0, 0, "media marks", "1 <|video|> and 0 video"),
        ("Human: What?\nAI: 1", 0, 1, "media marks", "0 <|video|> and 1 video"),
        ("Human: What?", 0, 0, "no supervised token", "within 48 tokens"),
        ("", 0, 0, "no supervised token", "within 48 tokens"),
        ("Human: " + 99 * "abc " + "\nAI: 1", 0, 0, "no supervised token", "within 48 tokens"),
        ("Human: <image><image><image>\nAI: 1", 3, 0, "too many media", "3 images and 0 videos"),
        ("Human: <|video|><|video|>\nAI: 1", 0, 2, "too many media", "0 images and 2 videos"),
    ],
)
def test_unusable_words_are_dropped_and_named(prepare, text, images, videos, reason, words):
    dropped = prepare(record(text, [picture()] * images, [[picture()]] * videos))
    assert isinstance(dropped, Dropped)
    assert dropped.reason == reason
    assert dropped.detail.startswith("here:7: ") and words in dropped.detail


@pytest.fixture
def bad_pictures(tmp_path):
    photo = save_bytes(tmp_path / "whole.jpg", Image.effect_noise((64, 64), 50), "JPEG")
    (tmp_path / "cut.jpg").write_bytes(photo.read_bytes()[:700])
    (tmp_path / "words.jpg").write_text("I am no picture.")
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "folder.jpg").mkdir()
    return {
        name: tmp_path / name
        for name in ("missing.jpg", "cut.jpg", "words.jpg", "empty.png", "folder.jpg")
    }


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("missing.jpg", "no such file"),
        ("cut.jpg", "damaged or cut short"),
        ("words.jpg", "not a picture"),
        ("empty.png", "not a picture"),
        ("folder.jpg", "cannot be read"),
    ],
)
def test_unreadable_pictures_are_dropped_and_named(prepare, bad_pictures, name, words):
    dropped = prepare(record(f"Human: <image>{QUESTION}1", [bad_pictures[name]]))
    assert isinstance(dropped, Dropped)
    assert dropped.reason == "unreadable media"
    assert dropped.detail.startswith(f"here:7: {bad_pictures[name]}: ") and words in dropped.detail


@pytest.mark.parametrize(
    "name", ["missing.mp4", "words.mp4", "frames", "empty.gif", "words.jpg", "folder.jpg"]
)
def test_unreadable_videos_are_dropped_and_named(prepare, bad_pictures, tmp_path, name):
    (tmp_path / "words.mp4").write_text("I am no video.")
    (tmp_path / "frames").mkdir()
    (tmp_path / "frames" / "1.jpg").write_text("I am no frame.")
    (tmp_path / "empty.gif").write_bytes(b"")
    dropped = prepare(record(f"Human: <|video|>{QUESTION}1", (), [tmp_path / name]))
    assert isinstance(dropped, Dropped)
    assert dropped.reason == "unreadable media"
    assert dropped.detail.startswith(f"here:7: {tmp_path / name}")


def test_large_and_unusual_pictures_go_through(prepare, tmp_path):
    red, green, blue = (200, 30, 30), (30, 200, 30), (30, 30, 200)
    palette = Image.new("RGB", (20, 30), blue).convert("P", palette=Image.Palette.ADAPTIVE)
    files = {
        save_bytes(tmp_path / "large.jpg", Image.new("RGB", (8000, 5000), red), "JPEG"): red,
        save_bytes(
            tmp_path / "cmyk.jpg", Image.new("RGB", (9, 9), green).convert("CMYK"), "JPEG"
        ): green,
        save_bytes(tmp_path / "palette.png", palette, "PNG"): blue,
        save_bytes(tmp_path / "clear.gif", palette, "GIF", transparency=1): blue,
        save_bytes(tmp_path / "grey.png", Image.new("L", (1, 500), 77), "PNG"): (77, 77, 77),
    }
    for file, color in files.items():
        example = prepare(record(f"Human: <image>{QUESTION}1", [file]))
        assert isinstance(example, Example), example
        np.testing.assert_allclose(example.images[0], np.broadcast_to(color, (8, 8, 3)), atol=4)


def write_lines(path, values):
    path.write_text("".join(json.dumps(value) + "\n" for value in values))
    return JsonLinesSource(path, path.parent)


@pytest.fixture
def mixed(bad_pictures, tmp_path):
    """Thirty-six records of which those on the lines 3, 6, ... 24 cannot be used."""
    save_bytes(tmp_path / "good.png", picture(), "PNG")
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


def test_bad_records_are_dropped_counted_and_told_and_never_replaced(prepare, mixed, caplog):
    log = DropLog(limit=0.25)
    taught = answers(prepare, batches(prepare, [(mixed, 1)], batch_size=7, log=log), 4)
    # An epoch gives each good record once: nothing stands in for the others.
    assert sorted(taught) == [n for n in range(1, 37) if n % 3 or n > 24]
    assert log.reasons["unreadable media"] <= 3
    told = {int(line) for line in re.findall(r"mixed\.jsonl:(\d+): ", caplog.text)}
    assert told <= set(range(3, 25, 3))
    assert log.reasons.total() == caplog.text.count("dropped (") == log.seen - 28
    assert log.reasons.total() == len(told)


def test_drops_are_counted_by_reason(prepare, mixed):
    log = DropLog(limit=0.25)
    # 28 good records in an epoch: nine epochs are 63 batches of 4.
    answers(prepare, batches(prepare, [(mixed, 1)], log=log), 63)
    whole, rest = divmod(log.seen, 36)
    assert whole >= 8
    expected = {
        "unreadable media": 3,
        "media marks": 2,
        "no supervised token": 1,
        "too many media": 1,
        "unreadable record": 1,
    }
    assert log.reasons.keys() == expected.keys()
    for reason, count in expected.items():
        assert whole * count <= log.reasons[reason] <= whole * count + min(count, rest)


def test_too_many_dropped_records_stop_the_run(prepare, mixed):
    log = DropLog(limit=0.2)
    stream = batches(prepare, [(mixed, 1)], log=log)
    with pytest.raises(UserError) as error:
        for _ in range(200):
            next(stream)
    assert 100 <= log.seen < 150
    message = str(error.value)
    assert re.match(rf"{log.reasons.total()} of {log.seen} records were dropped \(", message)
    for reason, count in log.reasons.items():
        assert f"{reason}: {count}" in message
    assert "data.max_dropped=0.2" in message and re.search(r"mixed\.jsonl:\d+: ", message)
    assert "\n" not in message


def test_a_few_dropped_records_do_not_stop_the_run(prepare):
    source = [*numbered(range(199)), record("Human: What?", where="list:199")]
    log = DropLog(limit=0.01)
    assert set(answers(prepare, batches(prepare, [(source, 1)], log=log), 100)) == set(range(199))
    assert log.reasons["no supervised token"] >= 2


@pytest.mark.parametrize("limit", [0.0, 0.99, 1.0])
@pytest.mark.parametrize("size", [40, 5000])
def test_data_of_which_nothing_can_be_used_ends_soon(prepare, limit, size):
    log = DropLog(limit)
    source = [record("Human: <image>\nAI: 1", where=f"list:{i}") for i in range(size)]
    start = time.monotonic()
    with pytest.raises(UserError, match=r"100 of 100 records were dropped \(media marks: 100\)"):
        next(batches(prepare, [(source, 1)], log=log))
    assert time.monotonic() - start < 30


def test_a_file_of_nonsense_ends_soon(prepare, tmp_path):
    (tmp_path / "data.jsonl").write_text("nonsense\n" * 10)
    source = JsonLinesSource(tmp_path / "data.jsonl", tmp_path)
    with pytest.raises(UserError, match=r"unreadable record: 100.*data\.jsonl:\d+: expected"):
        next(batches(prepare, [(source, 1)]))


def test_no_data_and_no_weight_are_named(prepare):
    with pytest.raises(UserError, match="no data"):
        batches(prepare, [])
    for weight in (0, -1, float("nan"), float("inf")):
        with pytest.raises(UserError, match="weight"):
            batches(prepare, [(numbered(range(3)), 1), (numbered(range(3)), weight)])


@pytest.mark.parametrize(
    ("weights", "count", "expected"),
    [
        ((1, 3), 40, (10, 30)),
        ((0.3, 0.7), 40, (12, 28)),
        ((2, 2, 4), 40, (10, 10, 20)),
        ((1 / 3, 2 / 3), 60, (20, 40)),
        ((200, 1), 402, (400, 2)),
        ((0.123, 1), 2246, (246, 2000)),
    ],
)
def test_shares_of_the_mixture_are_exact(prepare, weights, count, expected):
    sources = [
        (numbered(range(1000 * i, 1000 * i + 999)), weight)
        for i, weight in enumerate(weights, start=1)
    ]
    stream = batches(prepare, sources, batch_size=2)
    taught = Counter(number // 1000 for number in answers(prepare, stream, count // 2))
    assert tuple(taught[i] for i in range(1, len(weights) + 1)) == expected


def test_every_epoch_holds_each_record_once_in_a_new_order(prepare):
    taught = answers(prepare, batches(prepare, [(numbered(range(24)), 1)]), 12)
    epochs = [taught[:24], taught[24:]]
    assert [sorted(epoch) for epoch in epochs] == [list(range(24))] * 2
    assert epochs[0] != epochs[1] and epochs[0] != list(range(24))


def test_the_same_seed_gives_the_same_batches_whatever_the_threads(prepare):
    source = SyntheticSource(dict.fromkeys(KINDS, 1.0), size=40, image_size=24)
    prepare = Prepare(prepare.tokenizer, RowShape(400, 3, 8, 2, 1, 2))
    streams = [
        batches(prepare, [(source, 1)], seed=seed, num_threads=threads, limit=0.9)
        for seed, threads in ((1, 1), (1, 4), (2, 1))
    ]
    for one, four, other in itertools.islice(zip(*streams, strict=True), 4):
        assert_same(one, four)
        assert not np.array_equal(one.input_ids, other.input_ids)


def test_two_sources_of_a_seed_are_shuffled_differently(prepare):
    sources = [(numbered(range(100, 124)), 1), (numbered(range(200, 224)), 1)]
    taught = answers(prepare, batches(prepare, sources), 12)
    first, second = ([n % 100 for n in taught if n // 100 == i] for i in (1, 2))
    assert sorted(first) == sorted(second) == list(range(24))
    assert first != second


def test_resumes_bit_equal_in_the_middle(prepare, mixed):
    def start():
        source = SyntheticSource({"vqa": 1.0, "video": 1.0}, size=11, image_size=24, turns=1)
        wide = Prepare(prepare.tokenizer, RowShape(400, 3, 8, 2, 1, 2))
        return batches(wide, [(mixed, 2), (source, 1)], limit=0.5)

    stream = start()
    for _ in range(9):
        next(stream)
    state = json.loads(json.dumps(stream.get_state()))  # as it lies in a checkpoint
    expected = [next(stream) for _ in range(12)]

    resumed = start()
    resumed.set_state(state)
    for batch in expected:
        assert_same(next(resumed), batch)

    used = start()
    next(used)
    used.set_state(state)
    assert_same(next(used), expected[0])


def test_processes_share_the_data_out(prepare):
    source = numbered(range(24))
    first, second = (
        answers(prepare, batches(prepare, [(source, 1)], process=process, num_processes=2), count=3)
        for process in (0, 1)
    )
    assert set(first).isdisjoint(second)
    assert sorted(first + second) == list(range(24))
    alone = answers(prepare, batches(prepare, [(source, 1)]), count=6)
    assert alone[::2] == first and alone[1::2] == second


def test_processes_together_have_the_mixture(prepare):
    sources = [(numbered(range(100, 107)), 1), (numbered(range(200, 207)), 3)]
    taught = [
        number
        for process in range(4)
        for number in answers(
            prepare, batches(prepare, sources, process=process, num_processes=4), 5
        )
    ]
    assert Counter(number // 100 for number in taught) == {1: 20, 2: 60}


def test_rows_have_the_shape_they_were_asked_for(prepare):
    batch = next(batches(prepare, [(numbered(range(3)), 1)], batch_size=5))
    assert batch.input_ids.shape == (5, 48)
    assert batch.images.shape == (5, 2, 8, 8, 3) and batch.videos.shape == (5, 1, 2, 8, 8, 3)
