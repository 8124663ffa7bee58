"""The preview's page says what is in the batches that it is given."""

import base64
import io
import itertools

import numpy as np
import pytest
from html_page import Page
from PIL import Image

from owl_jax.data.batch import Example, SequenceShape, collate
from owl_jax.data.drops import DropLog, Dropped
from owl_jax.preview.page import Head, Sizes, SourceInfo, preview_page
from owl_jax.text.conversation import tokenize_conversation
from owl_jax.text.media_index import MediaLengths
from owl_jax.text.tokenizer import load_tokenizer, train_sentencepiece

SHAPE = SequenceShape(
    length=128, media=MediaLengths(3, 3), image_size=8, image_slots=3, video_slots=1, frames=2
)
SOURCES = [SourceInfo("a <1>.jsonl", 1234, 0.75), SourceInfo("synthetic", 1, 0.25)]
HEAD = Head("configs/<x>.py:small", "some/tokenizer", SHAPE, SOURCES, 0.01)
SIZES = Sizes([10, 20, 200, 30], [0, 1, 1, 2], [0, 0, 0, 1])
LEGEND = "the model learns to say this"
NASTY = '<script>alert("&amp;")</script>\n  <b>indented</b> ünïcode 🦉'

PICTURED = "Human: <image>\nHuman: What?\nAI: A red one.\nHuman: And?\nAI: No."
FILMED = "Human: <|video|>\nHuman: Who <image> <image>?\nAI: 7"
TOLD = "Human: Say it.\nAI: 12"


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    directory = tmp_path_factory.mktemp("tokenizer")
    train_sentencepiece(["Human: What is it?", "AI: It is 012"], 290, directory / "tokenizer.model")
    return load_tokenizer(directory)


def grey(value):
    return np.full((8, 8, 3), value, np.uint8)


@pytest.fixture
def example(tokenizer):
    def make(text, images=(), videos=()):
        tokens = tokenize_conversation(text, tokenizer, SHAPE.media, 256)
        return Example(
            tokens.input_ids,
            tokens.loss_mask,
            np.array([grey(v) for v in images], np.uint8).reshape(-1, 8, 8, 3),
            np.array([[*map(grey, v)] for v in videos], np.uint8).reshape(-1, 2, 8, 8, 3),
        )

    return make


@pytest.fixture
def batch(example):
    rows = [
        [example(PICTURED, [50]), example(TOLD)],
        [example(FILMED, [100, 150], [[200, 250]])],
        [],
    ]
    return collate(rows, SHAPE)


@pytest.fixture
def show(tmp_path, tokenizer):
    """Makes the page and reads it."""

    def make(batches=(), drops=None, sizes=SIZES, max_rows=16, head=HEAD):
        html = preview_page(head, list(batches), tokenizer, drops or DropLog(1), sizes, max_rows)
        (tmp_path / "preview.html").write_text(html, encoding="utf-8")
        return Page(tmp_path / "preview.html")

    return make


def taught(batch, tokenizer):
    """What the arrays of a batch teach, text by text, read from targets and mask alone."""
    texts = []
    for targets, mask in zip(batch.targets, batch.loss_mask, strict=True):
        runs = itertools.groupby(zip(mask, targets, strict=True), key=lambda pair: pair[0])
        for supervised, run in runs:
            if supervised:
                ids = [int(target) for _, target in run]
                assert ids[-1] == tokenizer.eos_id
                texts.append(tokenizer.decode(ids) + "</s>")
    return texts


def pictures(page):
    files = [image["src"].partition(";base64,")[2] for image in page.all("img")]
    return [Image.open(io.BytesIO(base64.b64decode(file, validate=True))) for file in files]


def test_what_is_taught_is_marked_and_nothing_else(show, batch, tokenizer):
    page = show([batch])
    marks = page.within("mark")
    assert marks.pop(0) == LEGEND
    assert marks == taught(batch, tokenizer) == ["A red one.</s>", "No.</s>", "12</s>", "7</s>"]
    # Each piece of a conversation begins with the tokenizer's space, as the model reads it.
    words = [" ".join(text.split()) for text in page.within("div", "words")]
    assert words == [
        "<s>Human: picture in slot 1, 3 tokens Human: What? AI: A red one.</s> "
        "Human: And? AI: No.</s>",
        "<s>Human: Say it. AI: 12</s>",
        "<s>Human: video in slot 1, 3 tokens Human: Who picture in slot 1, 3 tokens "
        "picture in slot 2, 3 tokens? AI: 7</s>",
    ]


def test_a_target_other_than_the_next_input_is_what_is_marked(show, batch, tokenizer):
    (word,) = [i for i in tokenizer.encode("2") if tokenizer.decode([i]) == "2"]
    place = np.flatnonzero(batch.loss_mask[1])[-2]
    batch.targets[1, place] = word
    assert show([batch]).within("mark")[-1] == "2</s>"


def test_special_tokens_stand_apart(show, batch):
    assert show([batch]).within("span", "special") == [
        *("<s>", "<s>", "</s>", "</s>", "<s>", "</s>", "<s>", "</s>"),
    ]


def test_ids_outside_the_vocabulary_stand_as_numbers(show, batch):
    batch.input_ids[0, 1] = 99_999
    assert "<99999>" in show([batch]).within("span", "special")


def test_rows_say_what_fills_them(show, batch):
    lengths = [int((ids == n).sum()) for ids in batch.segment_ids for n in (1, 2)]
    first, second, third = lengths[:3]
    page = show([batch])
    rows = [" ".join(text.split()) for text in page.within("summary")]
    assert rows == [
        f"Sequence 1 {(first + second) / 128:.1%} of 128 tokens 1 of 3 picture slots "
        f"0 of 1 video slots {int(batch.loss_mask[0].sum())} tokens supervised 12",
        f"Sequence 2 {third / 128:.1%} of 128 tokens 2 of 3 picture slots 1 of 1 video slots "
        f"{int(batch.loss_mask[1].sum())} tokens supervised 1",
        "Sequence 3 0.0% of 128 tokens 0 of 3 picture slots 0 of 1 video slots 0 tokens supervised",
    ]
    heads = [" ".join(text.split()) for text in page.within("h4")]
    assert [head.partition(",")[0] for head in heads] == [
        f"1{first} tokens",
        f"2{second} tokens",
        f"1{third} tokens",
    ]
    bar = [tag["style"] for tag in page.all("div") if "left:" in (tag.get("style") or "")]
    assert bar == [
        f"--color:var(--lines-0);left:0.00%;width:{100 * first / 128:.2f}%",
        f"--color:var(--lines-1);left:{100 * first / 128:.2f}%;width:{100 * second / 128:.2f}%",
        f"--color:var(--lines-0);left:0.00%;width:{100 * third / 128:.2f}%",
    ]


def test_media_stand_where_the_model_sees_them(show, batch):
    page = show([batch])
    values = [np.asarray(image).mean() for image in pictures(page)]
    np.testing.assert_allclose(values, [50, 200, 250, 100, 150], atol=2)
    assert [image["alt"] for image in page.all("img")] == [
        *("picture", "frame 1 of 2", "frame 2 of 2", "picture", "picture"),
    ]


def test_text_is_escaped_and_its_spaces_are_kept(show, example, tokenizer):
    batch = collate(
        [[example(f"Human: {NASTY}\nAI: {NASTY}")]], SequenceShape(256, MediaLengths(3, 3), 8)
    )
    page = show([batch])
    assert page.within("mark")[1] == f"{NASTY}</s>"
    assert page.within("div", "words")[0].count(NASTY) == 2
    assert page.all("script") == []


def test_nothing_is_fetched(show, batch, tmp_path):
    page = show([batch, batch])
    assert page.fetched() == []
    assert "http" not in (tmp_path / "preview.html").read_text(encoding="utf-8")


def test_batches_of_many_rows_show_the_first(show, batch):
    page = show([batch, batch], max_rows=1)
    assert page.within("h2")[-2:] == ["Batch 1", "Batch 2"]
    assert len(page.all("summary")) == 2
    assert page.text.count("… 2 more sequences") == 2
    # The histogram has all of them.
    assert "Fill of the sequences: 6 values" in page.drawings()[-1]


def test_the_head(show):
    page = show()
    assert page.within("h1") == ["The data of configs/<x>.py:small"]
    for words in (
        "some/tokenizer",
        "128 tokens, 3 pictures, 1 video of 2 frames",
        "3 tokens",
        "8 × 8 pixels",
        "a <1>.jsonl (1,234 records) 75.0%",
        "synthetic (1 record) 25.0%",
    ):
        assert words in page.text


def test_lengths_and_media_of_the_records(show):
    page = show()
    assert "25.0% of 4 records are longer than a sequence" in page.text
    assert page.drawings() == [
        "Length of the records: 4 values from 10 to 200; median 25; 95th percentile 174; "
        "sequence 128"
    ]
    for words in (
        "text-only 25.0%",
        "1 picture 50.0%",
        "2 pictures and 1 video 25.0%",
        "Fill of the sequences No values.",
    ):
        assert words in page.text


def test_records_that_are_far_longer_than_a_row_share_the_last_bar(show):
    page = show(sizes=Sizes([100] * 99 + [50_000], [0] * 100, [0] * 100))
    assert "tokens (last bar: 190 and more)" in page.text


def test_no_record_and_no_batch(show):
    page = show(sizes=Sizes([], [], []))
    assert "None was read." in page.text and "No record was read." in page.text


def drop_log(count):
    drops = DropLog(1)
    for number in range(1, count + 1):
        reason = "missing file" if number % 3 else "<media> marks"
        where = f"a.jsonl:{number}"
        drops.keep(Dropped(where, reason, f"{where}: owl {number}.jpg is <gone>"))
    for _ in range(3 * count):
        drops.keep("a conversation")
    return drops


def test_what_was_dropped_is_counted_and_listed(show):
    page = show(drops=drop_log(60))
    assert "60 of the 240 records read for these batches were dropped (25.0%)" in page.text
    assert "missing file 40 <media> marks 20" in page.text
    assert page.within("p", "alarm") == ["Above the limit: training would stop."]
    items = [text.strip() for text in page.within("li")]
    assert items[:3] == [
        "missing file a.jsonl:1owl 1.jpg is <gone>",
        "missing file a.jsonl:2owl 2.jpg is <gone>",
        "<media> marks a.jsonl:3owl 3.jpg is <gone>",
    ]
    assert len(items) == 50 and "Where (60)" in page.text and "… 10 more" in page.text
    assert "open" not in page.all("details")[0]


def test_few_drops_are_unfolded(show):
    page = show(drops=drop_log(3))
    assert len(page.within("li")) == 3 and "more" not in page.within("details")[0]
    assert "open" in page.all("details")[0]


def test_a_share_that_is_allowed_raises_no_alarm(show):
    drops = drop_log(1)
    for _ in range(200):
        drops.keep("a conversation")
    page = show(drops=drops)
    assert "1 of the 204 records" in page.text and page.within("p", "alarm") == []


def test_nothing_dropped(show):
    drops = DropLog(1)
    drops.keep("a conversation")
    page = show(drops=drops)
    assert "None of the 1 record read" in page.text
    assert page.within("li") == [] and page.all("details") == []
