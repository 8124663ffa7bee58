"""Records as conversations that fit in a sequence: what they keep, and why others are dropped."""

from pathlib import Path

import numpy as np
import pytest

from owl_jax.data.batch import SequenceShape
from owl_jax.data.conversations import Conversation, Tokenize
from owl_jax.data.drops import Dropped
from owl_jax.text.media_index import MediaLengths
from owl_jax.text.tokenizer import load_tokenizer, train_sentencepiece

SHAPE = SequenceShape(
    length=48, media=MediaLengths(3, 3), image_size=8, image_slots=2, video_slots=1, frames=2
)
QUESTION = "\nHuman: What?\nAI: "


@pytest.fixture(scope="module")
def tokenize(tmp_path_factory):
    directory = tmp_path_factory.mktemp("tokenizer")
    texts = ["Human: What number is it?", "AI: It is 0123456789 abc"]
    train_sentencepiece(texts, 300, directory / "tokenizer.model")
    return Tokenize(load_tokenizer(directory), SHAPE)


def record(text, images=(), videos=()):
    return {
        "text": text,
        "images": list(images),
        "videos": list(videos),
        "task_type": "",
        "where": "here:7",
    }


def test_a_conversation_is_what_processing_makes_and_media_as_they_are_stored(tokenize):
    images, clip = [Path("a.jpg"), b"bytes"], [Path("1.png"), Path("2.png")]
    text = f"Human: <image>\nHuman: <|video|>\nHuman: <image>{QUESTION}7"
    item = tokenize(12, record(text, images, [clip]))
    assert isinstance(item, Conversation)
    assert (item.number, item.where) == (12, "here:7")
    assert item.images == images and item.videos == [clip]
    assert item.input_ids[item.input_ids < 0].tolist() == [-1] * 3 + [-2] * 3 + [-1] * 3
    taught = item.input_ids[item.loss_mask]
    assert tokenize.tokenizer.decode(taught) == "7" and taught[-1] == tokenize.tokenizer.eos_id
    assert item.length == len(item.input_ids) - 1


def test_what_is_longer_than_a_row_is_cut_to_it(tokenize):
    item = tokenize(0, record(f"Human: What?\nAI: {'abc ' * 60}"))
    assert item.length == SHAPE.length
    assert item.input_ids[-1] == tokenize.tokenizer.eos_id


def test_media_of_a_part_that_is_cut_off_are_not_kept(tokenize):
    text = f"Human: <image>{QUESTION}1\nHuman: {'abc ' * 30}\nHuman: <image>\nAI: 2"
    item = tokenize(0, record(text, [b"first", b"second"]))
    assert item.images == [b"first"]
    assert np.count_nonzero(item.input_ids == -1) == 3


def test_a_conversation_about_sides_is_known(tokenize):
    sides = tokenize(0, record("Human: Is it on the left?\nAI: 1"))
    others = tokenize(0, record("Human: What is it?\nAI: 1"))
    assert sides.keep_places and not others.keep_places


def test_what_was_dropped_before_stays_dropped(tokenize):
    dropped = Dropped("here:7", "not an example", "here:7: nonsense")
    assert tokenize(0, dropped) is dropped


@pytest.mark.parametrize(
    ("text", "images", "videos", "reason", "words"),
    [
        ("Human: <image>\nAI: 1", 0, 0, "media marks", "1 <image>, but 0 image"),
        ("Human: What?\nAI: 1", 1, 0, "media marks", "0 <image>, but 1 image"),
        ("Human: <image><image>\nAI: 1", 1, 0, "media marks", "2 <image>, but 1 image"),
        ("Human: <|video|>\nAI: 1", 0, 0, "media marks", "1 <|video|>, but 0 video"),
        ("Human: What?\nAI: 1", 0, 1, "media marks", "0 <|video|>, but 1 video"),
        ("Human: What?", 0, 0, "no answer", "within 48 tokens"),
        ("", 0, 0, "no answer", "within 48 tokens"),
        ("Human: " + 99 * "abc " + "\nAI: 1", 0, 0, "no answer", "within 48 tokens"),
        ("Human: <image><image><image>\nAI: 1", 3, 0, "too many media", "3 images and 0 videos"),
        ("Human: <|video|><|video|>\nAI: 1", 0, 2, "too many media", "0 images and 2 videos"),
    ],
)
def test_unusable_words_are_dropped_and_named(tokenize, text, images, videos, reason, words):
    dropped = tokenize(0, record(text, [b"picture"] * images, [b"video"] * videos))
    assert isinstance(dropped, Dropped)
    assert (dropped.reason, dropped.where) == (reason, "here:7")
    assert words in dropped.message


class Untouched:
    """A tokenizer that must not be asked for anything."""

    bos_id, eos_id, pad_id, vocab_size = 1, 2, 0, 3


@pytest.mark.parametrize(
    "text",
    [
        "Human: What?\nAI: " + "an owl " * 150_000,
        "Human: " + "what " * 200_001 + "\nAI: 1",
        QUESTION + "1" + "\nHuman: a\nAI: b" * 70_000,
        "Human: " + "<image>" * 150_000 + "\nAI: 1",
        "x" * 1_000_001,
    ],
)
def test_a_text_that_no_row_has_use_for_is_not_tokenised(text):
    item = Tokenize(Untouched(), SHAPE)(0, record(text))
    assert isinstance(item, Dropped)
    assert (item.reason, item.where) == ("text too long", "here:7")
    assert f"{len(text):,} characters of text; at most 1,000,000" in item.message
    assert len(item.message) < 200


def test_a_text_at_the_bound_is_cut_to_its_row_as_ever(tokenize):
    text = f"Human: What?\nAI: {'abc ' * 60}"
    whole = tokenize(0, record(text + "x" * (1_000_000 - len(text))))
    assert whole.input_ids.tolist() == tokenize(0, record(text)).input_ids.tolist()


def test_long_rows_take_longer_texts(tokenize):
    shape = SequenceShape(length=20_000, media=MediaLengths(3, 3), image_size=8)
    text = "Human: What?\nAI: 7" + " " * 1_000_000
    item = Tokenize(tokenize.tokenizer, shape)(0, record(text))
    assert isinstance(item, Conversation) and item.length == 20_000
    assert isinstance(tokenize(0, record(text)), Dropped)


def test_rows_without_end_take_no_longer_texts_than_asked():
    shape = SequenceShape(length=1 << 40, media=MediaLengths(3, 3), image_size=8)
    item = Tokenize(Untouched(), shape, most_characters=50)(0, record("x" * 51))
    assert isinstance(item, Dropped) and item.reason == "text too long"
