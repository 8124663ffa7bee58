"""Every kind of bad data, from a file of lines to skipped.jsonl: dropped, reported by line,
the same on every run."""

import io
import json
import os
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from owl_jax.data.batch import SequenceShape
from owl_jax.data.decoding import Decoding
from owl_jax.data.drops import DropLog
from owl_jax.data.mixture import WeightedSource
from owl_jax.data.pipeline import Reading, make_batches
from owl_jax.data.sources.detect import open_source
from owl_jax.text.media_index import MediaLengths
from owl_jax.text.tokenizer import load_tokenizer, train_sentencepiece

SHAPE = SequenceShape(
    64, media=MediaLengths(3, 3), image_size=8, image_slots=2, video_slots=1, frames=2
)


def png_of_a_size(width, height):
    """A PNG file whose header says so, and little more."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(b"\0" * 100)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )


def encoded(image, format, **options):
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


PHOTO = Image.effect_noise((64, 48), 50).convert("RGB")
JPEG = encoded(PHOTO, "JPEG")
FILES = {
    "good.jpg": JPEG,
    "cut.jpg": JPEG[: len(JPEG) // 2],
    "words.jpg": b"I am no picture.",
    "nothing.png": b"",
    "bomb.png": png_of_a_size(20_000, 20_000),
    "animated.gif": encoded(PHOTO, "GIF", save_all=True, append_images=[PHOTO.rotate(90)]),
    "cmyk.jpg": encoded(PHOTO.convert("CMYK"), "JPEG"),
    "deep.png": encoded(Image.fromarray(np.arange(4096, dtype=np.uint16).reshape(64, 64)), "PNG"),
    "words.mp4": b"I am no video.",
    "phone.jpg": b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(90),
    "list.mp4": b"ffconcat version 1.0\nfile good.jpg\n",
}
TOO_LONG = "x" * 300


def image(name):
    return {"text": "Human: <image>\nAI: Seen.", "image": name}


def video(name):
    return {"text": "Human: <|video|>\nAI: Seen.", "video": name}


# What a line holds, and the reason to drop it.
CASES = [
    (image("cut.jpg"), "damaged picture"),
    (image("words.jpg"), "not a picture"),
    (image("nothing.png"), "not a picture"),
    (image("missing.jpg"), "missing file"),
    ({"text": "Human: <image><image>\nAI: Seen.", "image": "good.jpg"}, "media marks"),
    ({"text": "Human: What?\nAI: Seen.", "image": "good.jpg"}, "media marks"),
    ({"text": ""}, "empty text"),
    ({"text": "Human: What?\nAI: "}, "empty text"),
    ({"question": "What?", "answer": ""}, "empty text"),
    ({"text": "Human: What?"}, "no answer"),
    (b'{"text": "Human: \xff\xfe\\nAI: Seen."}', "invalid UTF-8"),
    (rb'{"text": "Human: \ud800\nAI: Seen."}', "invalid UTF-8"),
    (b'{"text": "Human: What?\\nAI: Se', "malformed record"),
    (b"[1, 2]", "not an example"),
    ({"image": "good.jpg"}, "not an example"),
    ({"text": "Human: <image>\nAI: Seen.", "image": 7}, "not a medium"),
    (image("bomb.png"), "picture too large"),
    (image("animated.gif"), "animated picture"),
    (image("cmyk.jpg"), "CMYK picture"),
    (image("deep.png"), "16-bit picture"),
    (image("folder"), "unreadable file"),
    (video("folder"), "video without frames"),
    (video("words.mp4"), "not a video"),
    (video("missing.mp4"), "missing file"),
    (image(f"{TOO_LONG}.jpg"), "missing file"),
    (video(f"{TOO_LONG}.mp4"), "missing file"),
    (video(TOO_LONG), "missing file"),
    (video([f"{TOO_LONG}.jpg"]), "missing file"),
    (image("good.jpg/inside.jpg"), "missing file"),
    (image("fifo"), "unreadable file"),
    (video("fifo"), "unreadable file"),
    (video("frames"), "unreadable file"),
    (image("circle.jpg"), "unreadable file"),
    (video("circle.jpg"), "unreadable file"),
    (image("phone.jpg"), "unsupported format"),
    (video("list.mp4"), "not a video"),
    ({"text": "Human: <image><image><image>\nAI: S.", "image": ["good.jpg"] * 3}, "too many media"),
]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Every bad line between two good ones; a tokenizer."""
    directory = tmp_path_factory.mktemp("bad")
    for name, data in FILES.items():
        (directory / name).write_bytes(data)
    (directory / "folder").mkdir()
    (directory / "frames").mkdir()
    for name in ("fifo", "frames/1.jpg"):
        os.mkfifo(directory / name)
    (directory / "circle.jpg").symlink_to("circle.jpg")
    good = json.dumps(image("good.jpg")).encode()
    lines = [good]
    for value, _ in CASES:
        lines += [value if isinstance(value, bytes) else json.dumps(value).encode(), good]
    (directory / "data.jsonl").write_bytes(b"\n".join(lines))
    train_sentencepiece(["Human: What?", "AI: Seen."], 280, directory / "words/tokenizer.model")
    return directory


def dropped(files, workdir, unusual="refuse", open_rows=4, workers=0):
    """{line: reason} of what a run lists, and the pictures that it shows."""
    log = DropLog(0.9, workdir / "skipped.jsonl")
    source = open_source(str(files / "data.jsonl"))
    tokenizer = load_tokenizer(files / "words")
    decoding = Decoding(SHAPE.image_size, SHAPE.frames, unusual=unusual)
    batches = make_batches(
        [WeightedSource(source, 1.0)], tokenizer, SHAPE, decoding, 4, 0, log, open_rows,
        Reading(workers=workers),
    )  # fmt: skip
    shown = 0
    while log.seen < 6 * len(source):
        shown += np.count_nonzero(next(batches).media_index >= 0) // SHAPE.media.image
    batches.close()
    found = {}
    for line in (workdir / "skipped.jsonl").read_text().splitlines():
        values = json.loads(line)
        file, _, number = values["where"].rpartition(":")
        assert file == str(files / "data.jsonl")
        assert values["message"].startswith(f"{values['where']}: ")
        assert int(number) not in found  # each is listed once
        found[int(number)] = values["reason"]
    assert set(log.reasons) == set(found.values())
    return found, shown


def test_each_is_dropped_with_its_reason_and_line(files, tmp_path):
    found, shown = dropped(files, tmp_path)
    assert found == {2 * n + 2: reason for n, (_, reason) in enumerate(CASES)}
    assert shown > 4 * len(CASES)  # the good lines, epoch after epoch


@pytest.mark.parametrize(("open_rows", "workers"), [(4, 0), (0, 0), (4, 2)])
def test_the_same_are_dropped_on_every_run(files, tmp_path, open_rows, workers):
    first, _ = dropped(files, tmp_path / "first")
    again, _ = dropped(files, tmp_path / "again", open_rows=open_rows, workers=workers)
    assert first == again


def test_unusual_pictures_can_be_converted(files, tmp_path):
    found, _ = dropped(files, tmp_path, unusual="convert")
    usual = {2 * n + 2: reason for n, (_, reason) in enumerate(CASES)}
    kept = ("animated picture", "CMYK picture", "16-bit picture")
    assert found == {line: reason for line, reason in usual.items() if reason not in kept}
