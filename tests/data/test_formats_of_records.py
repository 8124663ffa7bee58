"""Records of every form in every conversation format: packed batches teach the answers only."""

import io
import itertools
import json
from pathlib import Path

import chat_templates
import numpy as np
import pytest
from PIL import Image
from small_tokenizers import WRITERS

from owl_jax.data.batch import SequenceShape
from owl_jax.data.conversations import Tokenize
from owl_jax.data.decoding import Decoding
from owl_jax.data.drops import DropLog, Dropped
from owl_jax.data.mixture import WeightedSource
from owl_jax.data.pipeline import make_batches
from owl_jax.data.sources.values import record_from
from owl_jax.preview.unpacking import Medium, Words, unpack
from owl_jax.text.formats.choose import choose_format
from owl_jax.text.media_index import MediaLengths
from owl_jax.text.tokenizer import load_tokenizer

SHAPE = SequenceShape(
    length=700, media=MediaLengths(3, 5), image_size=8, image_slots=6, video_slots=2, frames=2
)
# Examples, and what each teaches.
EXAMPLES = [
    ({"text": "Human: <image>\nHuman: A?\nAI: 101.\nHuman: B?\nAI: 102", "image": 1}, "101.|102|"),
    ({"text": "Human: a <image> b <|video|>\nAI: 103", "image": 1, "video": 1}, "103|"),
    (
        {
            "conversations": [
                {"from": "human", "value": "<image>\nWhat?"},
                {"from": "gpt", "value": "104"},
                {"from": "human", "value": "And this? <image>"},
                {"from": "gpt", "value": "105\n106"},
            ],
            "image": 2,
        },
        "104|105\n106|",
    ),
    (
        {
            "messages": [
                {"role": "system", "content": "Be brief."},
                {"role": "user", "content": [{"type": "text", "text": "hi"}, {"type": "image"}]},
                {"role": "assistant", "content": "107"},
            ],
            "image": 1,
        },
        "107|",
    ),
    ({"caption": "108", "image": 1}, "108|"),
    ({"question": "What?", "answer": "109", "image": 1}, "109|"),
    ({"instruction": "Say it.", "output": "110"}, "110|"),
]  # fmt: skip
FORMATS = [
    *(("owl", "mistral"), ("owl2", "mistral"), ("vicuna_v1", "mistral"), ("llama2", "mistral")),
    *(("chatml", "qwen"), ("llama3", "llama3")),
    *(("CHATML", "qwen"), ("GENERATION", "qwen"), ("PARTS", "qwen"), ("LLAMA3", "llama3")),
]


class Records(list):
    """Records as a source."""

    def where(self, index):
        return self[index]["where"]


@pytest.fixture(scope="module")
def records():
    file = io.BytesIO()
    Image.new("RGB", (8, 8), (9, 9, 9)).save(file, "PNG")
    picture = file.getvalue()
    made = []
    for number, (example, _) in enumerate(EXAMPLES):
        values = json.loads(json.dumps(example))
        if count := values.pop("image", 0):
            values["images"] = [picture] * count
        if values.pop("video", 0):
            values["video"] = [[picture, picture]]
        made.append(record_from(values, f"list:{number}", Path()))
    return Records(made)


def opened(name, kind, directory):
    WRITERS[kind](directory)
    tokenizer = load_tokenizer(directory)
    if name.isupper():
        (directory / "chat_template.jinja").write_text(getattr(chat_templates, name))
        name = "chat_template"
    return tokenizer, choose_format(name, directory, tokenizer)


@pytest.mark.parametrize(("name", "kind"), FORMATS)
def test_packed_batches_teach_the_answers(name, kind, records, tmp_path):
    tokenizer, format = opened(name, kind, tmp_path)
    stream = make_batches(
        [WeightedSource(records, 1.0)],
        tokenizer,
        SHAPE,
        Decoding(SHAPE.image_size, SHAPE.frames, None, (1,)),
        2,
        1,
        DropLog(0.0),
        open_rows=2,
        format=format,
    )
    taught, packed = set(), 0
    ends = {tokenizer.eos_id}
    try:
        for batch in itertools.islice(stream, 4):
            for sequence in unpack(batch, SHAPE.media):
                packed = max(packed, len(sequence.segments))
                for segment in sequence.segments:
                    text = ""
                    for part in segment.parts:
                        if isinstance(part, Medium):
                            assert part.tokens == (5 if part.is_video else 3)
                        elif part.supervised:
                            text += _answers(part, tokenizer, ends)
                    taught.add(text)
    finally:
        stream.close()
    assert packed > 1
    assert taught == {text for _, text in EXAMPLES}


def test_a_template_sees_messages_as_they_are_and_other_formats_trim_them(tmp_path):
    asked, said = " hi\n", "\n yes "
    messages = [{"role": "user", "content": asked}, {"role": "assistant", "content": said}]
    turns = [{"from": "human", "value": asked}, {"from": "gpt", "value": said}]
    for example, name, text, taught in (
        ({"messages": messages}, "GENERATION", f"user\n{asked}\nassistant", f"{said}<|im_end|>"),
        ({"messages": messages}, "chatml", "user\nhi\nassistant", "yes<|im_end|>"),
        ({"conversations": turns}, "GENERATION", "user\nhi\nassistant", "yes<|im_end|>"),
        ({"messages": messages}, "owl", "\nHuman: hi\nAI: yes", "yes<|im_end|>"),
    ):
        tokenizer, format = opened(name, "qwen", tmp_path)
        record = record_from(example, "list:0", Path())
        made = Tokenize(tokenizer, SHAPE, format=format)(0, record)
        ids = made.input_ids
        assert text in tokenizer.decode(ids)
        answer, end = ids[made.loss_mask][:-1], int(ids[made.loss_mask][-1])
        assert tokenizer.decode(answer) + tokenizer.special_tokens[end] == taught


def _answers(words: Words, tokenizer, ends):
    """Answers without white space around them, each with "|" for what ends it."""
    ids = np.array(words.ids)
    parts = np.split(ids, np.flatnonzero(np.isin(ids, [*ends])) + 1)
    assert ids[-1] in ends
    return "".join(f"{tokenizer.decode(part).strip()}|" for part in parts if len(part))


def test_a_conversation_that_the_template_refuses_is_dropped(records, tmp_path):
    tokenizer, format = opened("MISTRAL", "mistral", tmp_path)
    items = [Tokenize(tokenizer, SHAPE, format=format)(0, record) for record in records]
    dropped = [item for item in items if isinstance(item, Dropped)]
    assert [item.reason for item in dropped] == ["conversation format"]
    assert "list:3: " in dropped[0].message and "roles must alternate" in dropped[0].message
