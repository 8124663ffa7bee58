"""OpenAI-style messages as text in mPLUG-Owl's format."""

import json
from pathlib import Path

import pytest

from owl_jax.errors import UserError
from owl_jax.text.messages import prompt_from_messages, text_from_messages
from owl_jax.text.turns import SYSTEM, without_margins

GOLDENS = Path(__file__).parents[1] / "goldens" / "case08_text_pipeline"
RECORD = json.loads((GOLDENS / "texts.json").read_text(encoding="utf-8"))


def test_messages_become_the_template():
    messages = [
        {"role": "user", "content": "<image>\nWhat is it?"},
        {"role": "assistant", "content": " A cat.\n"},
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "And these?"},
                {"type": "image_url", "image_url": {"url": "data:..."}},
                {"type": "video"},
                {"type": "text", "text": "Compare."},
            ],
        },
    ]
    assert prompt_from_messages(messages) == (
        f"{SYSTEM}\nHuman: <image>\nWhat is it?\nAI: A cat.\nHuman: And these?\nHuman: <image>"
        "\nHuman: <|video|>\nHuman: Compare.\nAI: "
    )


def test_margins_can_be_left_out_later():
    messages = [
        {"role": "system", "content": "\nBe brief.\t"},
        {"role": "user", "content": [{"type": "text", "text": " \n"}, {"type": "image"}]},
        {"role": "assistant", "content": " \n"},
        {"role": "user", "content": [{"type": "text", "text": "\n\nHuman: x\nAI: y\n\n"}]},
    ]
    for margins in (True, False):
        with pytest.raises(UserError, match=r"message 1 \(user\) is empty"):
            prompt_from_messages([{"role": "user", "content": " \n"}], margins)
    marked = prompt_from_messages(messages, margins=True)
    assert without_margins(marked) == prompt_from_messages(messages) != marked


def test_recorded_prompt_from_messages():
    content = [{"type": "image"}, {"type": "text", "text": "how many cats are there?"}]
    prompt = prompt_from_messages([{"role": "user", "content": content}])
    assert prompt == RECORD["prompt.p_image"][0]


def test_system_message_replaces_the_template_sentence():
    parts = [{"type": "text", "text": "Be brief."}, {"type": "text", "text": "Be kind."}]
    for content, expected in (("Be brief.", "Be brief."), (parts, "Be brief.\nBe kind.")):
        messages = [{"role": "system", "content": content}, {"role": "user", "content": "hi"}]
        assert prompt_from_messages(messages) == f"{expected}\nHuman: hi\nAI: "


def test_text_in_the_originals_format_is_returned_unchanged():
    for text in RECORD["prompt.p_batch"]:
        assert prompt_from_messages(text) == text


def test_finished_messages_are_the_prompt_and_its_answer():
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What?\nAI: x"}]},
    ]
    answer = {"role": "assistant", "content": "An owl <image>.\nHuman: y"}
    text = text_from_messages([*messages, answer])
    assert text == (
        "Be brief.\nHuman: <image>\nHuman: What?\n AI: x\nAI: An owl < image>.\n Human: y"
    )
    assert text.startswith(prompt_from_messages(messages))
    assert text_from_messages([*messages, answer, USER]) == f"{text}\nHuman: hi"


def test_finished_messages_need_an_answer():
    with pytest.raises(UserError, match="no message is the assistant's"):
        text_from_messages([USER])
    for messages, words in (
        ([], "conversation is empty"),
        (["hi"], "messages is list"),
        ([USER, {"role": "robot", "content": "hi"}], "role 'robot'"),
        ([USER, {"role": "assistant", "content": [{"type": "image"}]}], "only the user's"),
    ):
        with pytest.raises(UserError, match=words):
            text_from_messages(messages)


def test_empty_earlier_answer_is_allowed():
    messages = [
        {"role": "user", "content": "say nothing"},
        {"role": "assistant", "content": ""},
        {"role": "user", "content": "again"},
    ]
    assert "\nAI: \nHuman: again" in prompt_from_messages(messages)


USER = {"role": "user", "content": "hi"}


@pytest.mark.parametrize(
    ("messages", "words"),
    [
        ("", "conversation is empty"),
        (" \n", "conversation is empty"),
        ([], "conversation is empty"),
        (None, "messages is NoneType"),
        (USER, "messages is dict"),
        (["hi"], "expected a prompt text, or a list"),
        ([{"role": "robot", "content": "hi"}], "role 'robot'; expected system, user or assistant"),
        ([{"content": "hi"}], "role 'None'"),
        ([{"role": ["user"], "content": "hi"}], "expected system, user or assistant"),
        ([USER, {"role": "assistant", "content": "hello"}], "last message is the assistant's"),
        ([{"role": "system", "content": "be brief"}], "last message is the system's"),
        ([USER, {"role": "system", "content": "be brief"}, USER], "message 2 has the role system"),
        ([{"role": "user"}], r"message 1 \(user\) has the content None"),
        ([{"role": "user", "content": 3}], "has the content 3"),
        ([{"role": "user", "content": ["hi"]}], "expected a text or a list of parts"),
        ([{"role": "user", "content": " "}], "is empty"),
        ([{"role": "user", "content": []}], "is empty"),
        ([USER, {"role": "assistant", "content": []}, USER], r"message 2 \(assistant\) is empty"),
        ([{"role": "user", "content": [{"type": "audio"}]}], "type 'audio'"),
        ([{"role": "user", "content": [{"type": ["text"]}]}], "cannot be read"),
        ([{"role": "user", "content": [{"type": "text"}]}], "type 'text' that cannot be read"),
        (
            [USER, {"role": "assistant", "content": [{"type": "image"}]}, USER],
            r"message 2 \(assistant\) has a part of type image; only the user's",
        ),
    ],
)
def test_wrong_messages_are_refused_in_one_line(messages, words):
    with pytest.raises(UserError, match=words) as error:
        prompt_from_messages(messages)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", [b"x" * 10_000_000, 7, [["x" * 10_000_000]]])
def test_content_of_the_wrong_type_is_abbreviated(content):
    with pytest.raises(UserError, match="expected a text or a list of parts") as error:
        prompt_from_messages([{"role": "user", "content": content}])
    assert len(error.value.args[0]) < 300
