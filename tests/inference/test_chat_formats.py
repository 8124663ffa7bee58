"""Chat in other conversation formats: the prompt, what ends an answer, stop texts."""

import dataclasses
import json
import shutil

import chat_templates
import numpy as np
import pytest
import tiny
from small_tokenizers import write_qwen

import owl_jax
from owl_jax.errors import UserError
from owl_jax.inference.api import Owl
from owl_jax.models.config import OwlConfig
from owl_jax.text.conversation import tokenize_prompt
from owl_jax.text.formats import FORMATS
from owl_jax.text.formats.format import Format

MESSAGES = [{"role": "user", "content": "What do you see?"}]
TEXT = "Human: What do you see?\nAI: "
VICUNA = FORMATS["vicuna_v1"]


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    config = dataclasses.replace(tiny.CONFIG, conversation="vicuna_v1")
    llm = dataclasses.replace(tiny.CONFIG.llm, max_positions=320)
    config = dataclasses.replace(config, llm=llm)
    return tiny.write_model(tmp_path_factory.mktemp("models") / "vicuna", config)


@pytest.fixture(scope="module")
def owl(directory):
    return owl_jax.load(directory, "float32")


@pytest.fixture(scope="module")
def answered(owl):
    """(prompt ids, ids of an answer that nothing ends)."""
    ids = tokenize_prompt(TEXT, owl.tokenizer, owl.config.media_lengths(), format=VICUNA)
    return ids, owl.generate(ids[None], max_new_tokens=12, eos_token_id=-1)[0]


def with_files(owl, directory, **files):
    """The same model with other files beside its tokenizer."""
    for name, values in files.items():
        (directory / f"{name}.json").write_text(json.dumps(values))
    return Owl(owl.config, owl.params, tokenizer_source=directory)


def test_the_prompt_is_the_formats(owl, answered):
    assert owl.format == VICUNA
    answer = owl.tokenizer.decode(answered[1])
    for messages in (MESSAGES, TEXT, "What do you see?"):
        assert owl.chat(messages, max_new_tokens=12) == answer
    assert "".join(owl.chat(MESSAGES, stream=True, max_new_tokens=12)) == answer
    # With a picture, in the place of its mark.
    picture = np.full((28, 28, 3), 90, np.uint8)
    shown = [{"role": "user", "content": [{"type": "image"}, *_text("What do you see?")]}]
    ids = tokenize_prompt(
        f"Human: <image>\n{TEXT}", owl.tokenizer, owl.config.media_lengths(), format=VICUNA
    )
    tokens = owl.generate(ids[None], picture[None], max_new_tokens=12)[0]
    assert owl.chat(shown, picture, max_new_tokens=12) == owl.tokenizer.decode(tokens)


def _text(text):
    return [{"type": "text", "text": text}]


def test_any_of_several_ids_ends_an_answer(owl, answered, directory, tmp_path):
    ids, free = answered
    tokens = free.tolist()
    later, sooner = tokens[7], tokens[4]
    ends = [later, sooner, 3]
    first = min(tokens.index(id) for id in ends if id in tokens)
    for given in (ends, tuple(ends)):
        written = owl.generate(ids[None], max_new_tokens=12, eos_token_id=given)[0]
        assert written[: first + 1].tolist() == tokens[: first + 1]
        assert (written[first + 1 :] == owl.config.llm.pad_token_id).all()
    # A batch: each sequence by whichever comes first.
    both = owl.generate(np.stack([ids, ids[::-1]]), max_new_tokens=12, eos_token_id=ends)
    np.testing.assert_array_equal(both[0], written)
    # The same ids in generation_config.json.
    shutil.copy(directory / "tokenizer.model", tmp_path)
    several = with_files(owl, tmp_path, generation_config={"eos_token_id": ends})
    np.testing.assert_array_equal(several.generate(ids[None], max_new_tokens=12)[0], written)
    expected = owl.tokenizer.decode(tokens[:first])
    assert several.chat(MESSAGES, max_new_tokens=12) == expected
    assert "".join(several.chat(MESSAGES, stream=True, max_new_tokens=12)) == expected
    many = [*range(300, 330), sooner]
    with_many = owl.generate(ids[None], max_new_tokens=12, eos_token_id=many)[0]
    end = min(tokens.index(id) for id in many if id in tokens)
    assert with_many[: end + 1].tolist() == tokens[: end + 1] and not with_many[end + 1 :].any()
    for wrong in ([2, 10**6], ["a"], [None]):
        with pytest.raises(UserError, match="eos_token_id is"):
            owl.generate(ids[None], eos_token_id=wrong)


def test_the_formats_end_and_stop_texts_end_an_answer(owl, answered, directory, tmp_path):
    ids, tokens = answered
    answer = owl.tokenizer.decode(tokens)
    stop = answer[len(answer) // 2 :][:3]
    stopping = dataclasses.replace(VICUNA, name="stopping", stops=("never", stop))
    config = dataclasses.replace(owl.config, conversation=stopping)
    stopped = Owl(config, owl.params, tokenizer_source=directory)
    assert stopped.chat(MESSAGES, max_new_tokens=12) == answer.partition(stop)[0]
    # `end` is a token of its own: one that the files add where the answer has an ordinary piece.
    shutil.copy(directory / "tokenizer.model", tmp_path)
    piece = owl.tokenizer._processor.id_to_piece(int(tokens[3]))
    added = {str(tokens[3]): {"content": piece}}
    ended = dataclasses.replace(VICUNA, name="ended", end=piece)
    config = dataclasses.replace(owl.config, conversation=ended)
    ending = with_files(
        Owl(config, owl.params), tmp_path, tokenizer_config={"added_tokens_decoder": added}
    )
    assert int(tokens[3]) in ending.format.end_ids(ending.tokenizer)
    end = tokens.tolist().index(tokens[3])
    given = ending.generate(ids[None], max_new_tokens=12)[0]
    assert given[: end + 1].tolist() == tokens[: end + 1].tolist() and not given[end + 1 :].any()


def test_a_start_of_the_answer_is_not_part_of_it(owl, directory, answered):
    answer = owl.tokenizer.decode(answered[1])
    starts = Format("starts", VICUNA.user, VICUNA.answer_mark, (answer[:2], ""))
    starts = dataclasses.replace(starts, system=VICUNA.system, default_system=VICUNA.default_system)
    config = dataclasses.replace(owl.config, conversation=starts)
    started = Owl(config, owl.params, tokenizer_source=directory)
    assert started.chat(MESSAGES, max_new_tokens=12) == answer[2:]


def test_another_format_when_loading(owl, directory, answered, tmp_path):
    config = dataclasses.replace(owl.config, conversation="owl")
    given = owl_jax.load(
        tiny.write_model(tmp_path / "owl", config), "float32", conversation="vicuna_v1"
    )
    assert given.config == owl.config
    assert given.chat(MESSAGES, max_new_tokens=12) == owl.tokenizer.decode(answered[1])
    (tmp_path / "mine.py").write_text(
        "from owl_jax.text.formats.format import Format\nMINE = Format('mine', ('Q', ''), 'A')"
    )
    mine = owl_jax.load(directory, "float32", conversation=tmp_path / "mine.py")
    assert mine.format == Format("mine", ("Q", ""), "A")
    for format in ("huggingface", "orbax"):
        mine.save(tmp_path / format, format)
        assert owl_jax.load(tmp_path / format, "float32").config == mine.config
    for wrong, key in (
        ("'mine', 'Q', 'A'", "user"),
        ("'my own', ('Q', ''), 'A'", "name"),
        ("'mine', ('Q', ''), 'A', stops=('',)", r"stops\[0\]"),
    ):
        (tmp_path / "wrong.py").write_text(
            f"from owl_jax.text.formats.format import Format\nWRONG = Format({wrong})"
        )
        with pytest.raises(UserError, match=rf"wrong\.py: conversation\.{key} is .*; expected "):
            owl_jax.load(directory, conversation=tmp_path / "wrong.py")
    with pytest.raises(UserError, match="conversation is 'alpaca'; expected owl, owl2, "):
        owl_jax.load(directory, conversation="alpaca")


def test_a_tokenizer_that_does_not_suit_the_format(owl, directory):
    config = dataclasses.replace(owl.config, conversation="chatml")
    wrong = Owl(config, owl.params, tokenizer_source=directory)
    with pytest.raises(UserError, match=r"format chatml needs the token '<\|im_start\|>'"):
        wrong.chat(MESSAGES)
    config = dataclasses.replace(owl.config, conversation="chat_template")
    with pytest.raises(UserError, match="no chat template"):
        Owl(config, owl.params, tokenizer_source=directory).chat(MESSAGES)


def test_a_chat_template_goes_with_the_model(owl, directory, tmp_path, answered):
    template = (
        "{% for m in messages %}{{ m.role.upper() + ': ' + m.content + ' ' }}{% endfor %}"
        "{% if add_generation_prompt %}ASSISTANT:{% endif %}"
    )
    shutil.copy(directory / "tokenizer.model", tmp_path)
    (tmp_path / "chat_template.jinja").write_text("{{ bos_token }}" + template)
    config = dataclasses.replace(owl.config, conversation="chat_template")
    templated = Owl(config, owl.params, tokenizer_source=tmp_path)
    system = {"role": "system", "content": VICUNA.default_system}
    ids = tokenize_prompt(
        "What?", owl.tokenizer, owl.config.media_lengths(), format=templated.format
    )
    assert owl.tokenizer.decode(ids) == "USER: What? ASSISTANT:" and ids[0] == 1
    templated.save(tmp_path / "saved", "orbax")
    again = owl_jax.load(tmp_path / "saved", "float32")
    assert again.config.conversation == "chat_template"
    assert again.chat([system, *MESSAGES]) == templated.chat([system, *MESSAGES])
    # White space around a message is the template's business, and the other formats trim it.
    spaced = [{"role": "user", "content": "\n What?\n\n"}]
    ids = owl.tokenizer.encode("USER: \n What?\n\n ASSISTANT:")
    expected = templated.generate([[1, *ids]], max_new_tokens=8)[0]
    assert templated.chat(spaced, max_new_tokens=8) == owl.tokenizer.decode(expected)
    plain = [{"role": "user", "content": "What?"}]
    assert owl.chat(spaced, max_new_tokens=8) == owl.chat(plain, max_new_tokens=8)


def test_a_plain_language_model_uses_its_chat_template(tmp_path):
    """A directory like Qwen2.5's: text only, a template, no BOS, two ids that end an answer."""
    tokens = write_qwen(tmp_path / "tokenizer")
    ends = {"eos_token_id": [422, 420], "_from_model_config": True}
    (tokens / "generation_config.json").write_text(json.dumps(ends))
    (tokens / "chat_template.jinja").write_text(chat_templates.CHATML)
    llm = dataclasses.replace(tiny.CONFIG.llm, vocab_size=500)
    config = OwlConfig(None, None, llm, conversation="chat_template")
    made = owl_jax.load(tiny.write_model(tmp_path / "made", config), "float32")
    owl = Owl(config, made.params, tokenizer_source=tokens)
    for format in ("huggingface", "orbax", "huggingface"):
        directory = tmp_path / f"{len(list(tmp_path.iterdir()))}-{format}"
        owl.save(directory, format)
        owl = owl_jax.load(directory, "float32")
        assert owl.config.conversation == "chat_template"
        assert owl.end_ids == (422, 420) and owl.tokenizer.bos_id is None
    values = json.loads((directory / "config.json").read_text())
    assert "owl_jax_conversation" not in values
    answer = owl.chat(MESSAGES, max_new_tokens=8)
    chatml = owl_jax.load(directory, "float32", conversation="chatml")
    assert chatml.chat(MESSAGES, max_new_tokens=8) == answer
    text = "<|im_start|>user\nWhat do you see?<|im_end|>\n<|im_start|>assistant\n"
    system = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
    ids = owl.tokenizer.encode(system + text)
    assert owl.tokenizer.decode(owl.generate([ids], max_new_tokens=8)[0]) == answer
