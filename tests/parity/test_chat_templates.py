"""Chat templates: the ids of transformers' apply_chat_template, and its masks."""

import chat_templates as templates
import pytest
import transformers
from small_tokenizers import WRITERS

from owl_jax.text.conversation import tokenize_conversation, tokenize_prompt
from owl_jax.text.formats.choose import choose_format
from owl_jax.text.media_index import MediaLengths
from owl_jax.text.messages import prompt_from_messages, text_from_messages
from owl_jax.text.tokenizer import load_tokenizer

LENGTHS = MediaLengths(1, 1)
TALKS = [
    [("user", "What do you see?"), ("assistant", "An owl.")],
    [("user", "hi"), ("assistant", "yes"), ("user", "Why,\n\n x?"), ("assistant", "1\n\n2  3")],
    [("system", "Be brief."), ("user", "hi"), ("assistant", "猫头鹰 don't"), ("user", "bye")],
    [
        *(("system", "\nBe brief. "), ("user", " hi\n"), ("assistant", "\n\n yes  ")),
        *(("user", "\tWhy,\n\n"), ("assistant", " 1\n"), ("user", "\nAI: x "), ("assistant", " ")),
    ],
]
CASES = [
    *(("CHATML", "qwen"), ("GENERATION", "qwen"), ("THINKING", "qwen"), ("PARTS", "qwen")),
    *(("LLAMA3", "llama3"), ("MISTRAL", "mistral")),
]


@pytest.mark.parametrize("talk", TALKS)
@pytest.mark.parametrize(("name", "kind"), CASES)
def test_ids_are_those_of_transformers(name, kind, talk, tmp_path):
    if name == "MISTRAL" and talk[0][0] == "system":
        talk = talk[1:]
    WRITERS[kind](tmp_path)
    (tmp_path / "chat_template.jinja").write_text(getattr(templates, name))
    tokenizer = load_tokenizer(tmp_path)
    format = choose_format("chat_template", tmp_path, tokenizer)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    messages = [{"role": role, "content": text} for role, text in talk]

    def expected(messages, **settings):
        return theirs.apply_chat_template(messages, return_dict=True, **settings)

    questions = [i for i, (role, _) in enumerate(talk) if role == "user"]
    for i in questions:
        text = prompt_from_messages(messages[: i + 1], margins=True)
        prompt = tokenize_prompt(text, tokenizer, LENGTHS, format=format)
        wanted = expected(messages[: i + 1], add_generation_prompt=True)
        assert prompt.tolist() == wanted["input_ids"]
    if name == "THINKING" and len(questions) > 1:
        return  # it rewrites answers: it cannot be masked
    text = text_from_messages(messages, margins=True)
    example = tokenize_conversation(text, tokenizer, LENGTHS, 999, format)
    masks = name == "GENERATION"
    wanted = expected(messages, return_assistant_tokens_mask=masks)
    assert example.input_ids.tolist() == wanted["input_ids"]
    if masks:
        assert example.loss_mask.tolist() == [bool(m) for m in wanted["assistant_masks"]]
