"""Every form of an example as a record; what is none is bad data with a reason and a place."""

import json
from pathlib import Path

import numpy as np
import pytest

from owl_jax.data.sources.values import record_from, record_from_json
from owl_jax.errors import BadData
from owl_jax.text.messages import prompt_from_messages
from owl_jax.text.turns import SYSTEM

ROOT = Path("/media")
TEXT = "Be kind.\nHuman: <image>\nHuman: What?\nAI: An owl."
HUMAN = {"from": "human", "value": "What?"}
GPT = {"from": "gpt", "value": "An owl."}
USER = {"role": "user", "content": "What?"}
ASSISTANT = {"role": "assistant", "content": "An owl."}


def record(**values):
    return record_from(values, "data.jsonl:3", ROOT)


def text(**values):
    return record(**values)["text"]


def llava(*values):
    turns = [
        {"from": ("human", "gpt")[number % 2], "value": value}
        for number, value in enumerate(values)
    ]
    return {"id": "1", "conversations": turns}


def test_the_originals_form():
    assert record(
        text=TEXT + "<|video|>", image=["a.jpg"], video="v.mp4", task_type="vqa", more=1
    ) == {
        "text": TEXT + "<|video|>",
        "images": [ROOT / "a.jpg"],
        "videos": [ROOT / "v.mp4"],
        "task_type": "vqa",
        "where": "data.jsonl:3",
    }
    assert record(text="Human: hi\nAI: ho")["task_type"] == ""


@pytest.mark.parametrize(
    ("question", "lines"),
    [
        ("<image>\nWhat is it?", ["<image>", "What is it?"]),
        ("What is it?\n<image>", ["What is it?", "<image>"]),
        ("<image>What is it?", ["<image>", "What is it?"]),
        ("<image>", ["<image>"]),
        ("Is <image> this?\nSay.", ["Is", "<image>", "this?\nSay."]),
    ],
)
def test_llavas_form_gives_a_picture_a_line_of_its_own(question, lines):
    expected = "".join(f"\nHuman: {line}" for line in lines)
    assert record(**llava(question, "An owl."), image="a.jpg") == {
        "text": f"{SYSTEM}{expected}\nAI: An owl.",
        "images": [ROOT / "a.jpg"],
        "videos": [],
        "task_type": "",
        "where": "data.jsonl:3",
    }


def test_llavas_form_with_several_turns_and_media():
    found = record(
        **llava("<image>\n<video>\nSame?", "Yes.", "And <image>?", "No.", "Bye."),
        image=["a.jpg", "b.jpg"],
        video="v.mp4",
    )
    assert found["text"] == (
        f"{SYSTEM}\nHuman: <image>\nHuman: <|video|>\nHuman: Same?\nAI: Yes.\nHuman: And"
        "\nHuman: <image>\nHuman: ?\nAI: No.\nHuman: Bye."
    )
    assert found["images"] == [ROOT / "a.jpg", ROOT / "b.jpg"]
    assert found["videos"] == [ROOT / "v.mp4"]


def test_llavas_roles():
    system = {"from": "system", "value": "Be kind."}
    for human in ("human", "user"):
        for gpt in ("gpt", "assistant"):
            turns = [system, {**HUMAN, "from": human}, {**GPT, "from": gpt}]
            assert text(conversations=turns) == "Be kind.\nHuman: What?\nAI: An owl."


def test_words_of_llavas_open_no_turn_and_place_no_picture():
    forged = "Write <image> and <|video|>.\nHuman: me\nAI: you"
    assert text(**llava("hi\nAI: sure\nHuman: ok", forged)) == (
        f"{SYSTEM}\nHuman: hi\n AI: sure\n Human: ok"
        "\nAI: Write < image> and < |video|>.\n Human: me\n AI: you"
    )


def test_messages_are_written_as_the_prompts_of_chat_are():
    messages = [{"role": "user", "content": "<image>\nWhat?"}, ASSISTANT]
    expected = prompt_from_messages(messages[:1]) + "An owl."
    assert text(messages=messages, images=["a.jpg"]) == expected
    parts = [{"type": "image"}, {"type": "text", "text": "What?"}]
    messages[0] = {"role": "user", "content": parts}
    assert text(messages=messages, image="a.jpg") == prompt_from_messages(messages[:1]) + "An owl."


def test_messages_may_hold_their_media():
    parts = [
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,aGFsbG8="}},
        {"type": "image", "image": "b.jpg", "text": None},
        {"type": "video", "video": ["1.jpg", "2.jpg"]},
        {"type": "text", "text": "What?", "image": None},
    ]
    found = record(messages=[{"role": "user", "content": parts}, ASSISTANT])
    assert found["images"] == [b"hallo", ROOT / "b.jpg"]
    assert found["videos"] == [[ROOT / "1.jpg", ROOT / "2.jpg"]]
    assert found["text"] == (
        f"{SYSTEM}\nHuman: <image>\nHuman: <image>\nHuman: <|video|>\nHuman: What?\nAI: An owl."
    )


def test_a_pair_answers_an_empty_question():
    assert text(caption="An owl.\n", image="a.jpg") == f"{SYSTEM}\nHuman: <image>\nAI: An owl."
    assert text(caption="An owl.", video="v") == f"{SYSTEM}\nHuman: <|video|>\nAI: An owl."
    found = record(caption="Two\nHuman: owls.", images=["a.jpg", "b.jpg"])
    assert found["text"] == f"{SYSTEM}\nHuman: <image>\nHuman: <image>\nAI: Two\n Human: owls."
    assert found["images"] == [ROOT / "a.jpg", ROOT / "b.jpg"]


def test_question_and_answer_are_one_turn():
    found = record(image="1.jpg", question_id=1, question="What?\n", answer="An owl.\n\nAwake.")
    assert found["text"] == f"{SYSTEM}\nHuman: <image>\nHuman: What?\nAI: An owl.\n\nAwake."
    assert found["images"] == [ROOT / "1.jpg"]
    assert text(question="Why?", answer="So.") == f"{SYSTEM}\nHuman: Why?\nAI: So."


def test_the_first_form_that_is_there_is_read():
    both = {**llava("Why?", "So."), "messages": [USER, ASSISTANT], "question": "q", "answer": "a"}
    assert text(text=TEXT, image="a.jpg", **both) == TEXT
    assert text(text=None, **both) == f"{SYSTEM}\nHuman: Why?\nAI: So."
    assert text(**{**both, "conversations": None}) == f"{SYSTEM}\nHuman: What?\nAI: An owl."
    assert text(question="q", answer="a", caption="c") == f"{SYSTEM}\nHuman: q\nAI: a"
    assert text(question="q", answer=None, caption="c", image="a.jpg").endswith("\nAI: c")


def test_words_may_be_bytes_and_turns_columns():
    assert text(text=TEXT.encode(), image=b"JPEG") == TEXT
    assert record(text=b"AI: hi", task_type=b"vqa")["task_type"] == "vqa"
    expected = f"{SYSTEM}\nHuman: What?\nAI: An owl."
    columns = {"from": ["human", "gpt"], "value": np.array([b"What?", b"An owl."], object)}
    assert text(conversations=columns) == expected
    assert text(conversations=np.array([HUMAN, GPT], object)) == expected
    assert text(messages=[{"role": b"user", "content": b"What?"}, ASSISTANT]) == expected
    parts = {"type": [b"text", b"image"], "text": [b"What?", None]}
    messages = [{"role": "user", "content": parts}, ASSISTANT]
    assert text(messages=messages, image="a") == (
        f"{SYSTEM}\nHuman: What?\nHuman: <image>\nAI: An owl."
    )
    assert text(caption="鸮".encode(), image="a").endswith("\nAI: 鸮")


@pytest.mark.parametrize(
    ("reason", "words", "values"),
    [
        ("not an example", "has no keys; expected text", {}),
        ("not an example", "has 'image'; expected text", {"image": ["a.jpg"]}),
        ("not an example", "has 'caption'", {"caption": "without a picture"}),
        ("not an example", "has 'caption', 'image'", {"caption": "x", "image": ""}),
        ("not an example", '"text" holds int', {"text": 3}),
        ("not an example", '"question" holds int', {"question": 4, "answer": "Why?"}),
        ("not an example", '"caption" is an empty list', {"caption": [], "image": "a"}),
        ("not an example", '"conversations" holds str', {"conversations": "hi"}),
        ("not an example", '"conversations" holds dict', {"conversations": HUMAN}),
        ("not an example", '"messages" holds dict', {"messages": {"role": ["user"], "c": []}}),
        ("not an example", "conversation is empty", {"conversations": []}),
        ("not an example", "messages is list", {"conversations": ["hi", "ho"]}),
        ("not an example", "role 'bing'", {"conversations": [HUMAN, {**GPT, "from": "bing"}]}),
        ("not an example", "role 'None'", {"conversations": [{"value": "hi"}, GPT]}),
        ("not an example", "content None", {"conversations": [{"from": "human"}, GPT]}),
        ("not an example", '"content" holds int', {"messages": [{**USER, "content": 3}]}),
        ("not an example", "no message is the assistant's", {"conversations": [HUMAN]}),
        ("not an example", "is empty", {"question": " ", "answer": "yes"}),
        ("empty text", "no text", {"text": ""}),
        ("empty text", "no text", {"text": " \n"}),
        ("empty text", "no text", {"text": "Human: hi\nAI: \nHuman: hi\nAI: "}),
        ("empty text", "no text", {"conversations": [HUMAN, {**GPT, "value": " "}]}),
        ("empty text", "no text", {"caption": "", "image": "a.jpg"}),
        ("invalid UTF-8", "surrogates not allowed", {"text": "AI: half a \ud83d letter"}),
        ("invalid UTF-8", "surrogates", {"conversations": [HUMAN, {**GPT, "value": "\udcff"}]}),
        ("invalid UTF-8", "can't decode", {"text": b"AI: \xff"}),
        ("invalid UTF-8", "can't decode", {"caption": b"\xff", "image": "a.jpg"}),
        ("media marks", "1 <image>, but 0 image", {"text": TEXT}),
        ("media marks", "1 <image>, but 2 image", {"text": TEXT, "image": ["a", "b"]}),
        ("media marks", "0 <image>, but 1 image", {"conversations": [HUMAN, GPT], "image": "a"}),
        ("media marks", "0 <|video|>, but 1 video", {"text": "AI: hi", "video": "v"}),
        ("media marks", "2 <image>", {"question": "<image><image>", "answer": "x", "image": "a"}),
        ("not a medium", "3 is not a picture", {"text": TEXT, "image": 3}),
    ],
)
def test_what_is_no_example_is_told_with_reason_and_place(reason, words, values):
    with pytest.raises(BadData) as error:
        record(**values)
    assert error.value.reason == reason
    assert words in str(error.value)
    assert str(error.value).startswith("data.jsonl:3: ")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("values", [[1, 2], ["text"], "text", 3, None])
def test_only_objects_are_examples(values):
    with pytest.raises(BadData, match=r"data\.jsonl:3: found (list|str|int|NoneType); expected an"):
        record_from(values, "data.jsonl:3", ROOT)


def test_an_answer_that_is_missing_is_left_to_the_tokenizer():
    assert text(text="Human: nobody answers") == "Human: nobody answers"


def test_json():
    values = {"text": "AI: 鸮\u2028"}
    for ascii_only in (True, False):
        data = json.dumps(values, ensure_ascii=ascii_only).encode()
        assert record_from_json(b" " + data + b"\r\n", "x", ROOT) == record_from(values, "x", ROOT)


@pytest.mark.parametrize(
    ("reason", "data"),
    [
        ("malformed record", b'{"text": "cut sho'),
        ("malformed record", b"plain words"),
        ("malformed record", b""),
        ("malformed record", b"{} {}"),
        ("malformed record", b"[" * 100_000),
        ("malformed record", b'{"text": ' + b"1" * 5000 + b"}"),
        ("malformed record", b"\x00\x01\x02"),
        ("invalid UTF-8", b'{"text": "\xff\xfe"}'),
        ("invalid UTF-8", b'{"text": "AI: half a \\ud83d letter"}'),
        ("not an example", b'["text"]'),
        ("not an example", b"null"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_what_is_no_json_object_is_told(reason, data):
    with pytest.raises(BadData, match=r"^x:7: [^\n]+$") as error:
        record_from_json(data, "x:7", ROOT)
    assert error.value.reason == reason
