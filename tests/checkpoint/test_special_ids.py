"""The tokenizer's ids count, and those of config.json are the vocabulary's."""

import json

import directories
import golden
import pytest
from directories import LLAMA
from small_tokenizers import write_llama3, write_qwen

from owl_jax.checkpoint.hf_import import open_family, open_language
from owl_jax.checkpoint.special_ids import special_ids
from owl_jax.errors import UserError
from owl_jax.text.tokenizer import load_tokenizer, train_sentencepiece


def test_ids_of_a_sentencepiece_tokenizer_count(tmp_path):
    model = directories.copy(LLAMA, tmp_path / "model")
    directories.change_config(model, "text_config", bos_token_id=0, eos_token_id=1)
    assert open_family(model).config.llm.eos_token_id == 1
    train_sentencepiece(["a text of words"], 280, model / "tokenizer.model")
    opened = open_family(model)
    assert opened.config == golden.model(golden.LLAMA)[0]
    assert opened.notes == (
        "config.json says bos_token_id 0 and eos_token_id 1, the tokenizer bos_token_id 1 and "
        "eos_token_id 2; using the tokenizer's",
    )


@pytest.mark.parametrize("said", [{}, {"bos_token_id": 5, "eos_token_id": None}])
def test_ids_that_config_json_lacks_are_not_told_as_its(said, tmp_path):
    model = directories.write_language(LLAMA, tmp_path / "model")
    values = directories.config(model)
    for name in ("bos_token_id", "eos_token_id"):
        values.pop(name, None)
    (model / "config.json").write_text(json.dumps({**values, **said}))
    tokens = [{"id": 5, "content": "<s>"}, {"id": 6, "content": "</s>"}]
    (model / "tokenizer.json").write_text(json.dumps({"added_tokens": tokens}))
    opened = open_language(model)
    assert (opened.config.llm.eos_token_id, opened.notes) == (6, ())
    directories.change_config(model, bos_token_id=9)
    note = "config.json says bos_token_id 9, the tokenizer bos_token_id 5; using the tokenizer's"
    assert open_language(model).notes == (note,)


def test_ids_of_a_tokenizer_json(tmp_path):
    assert special_ids(tmp_path) == {}
    tokens = [{"id": 5, "content": "<s>"}, {"id": 6, "content": "</s>"}]
    whole = json.dumps(
        {"version": "1.0", "added_tokens": tokens, "model": {"vocab": "x" * 400_000}}
    )
    (tmp_path / "tokenizer.json").write_text(whole)
    assert special_ids(tmp_path) == {"bos_token_id": 5, "eos_token_id": 6}


def test_roles_of_a_tokenizer_json_are_those_of_its_files(tmp_path):
    llama3, qwen = write_llama3(tmp_path / "llama3"), write_qwen(tmp_path / "qwen")
    ours = load_tokenizer(llama3)
    assert special_ids(llama3) == {"bos_token_id": ours.bos_id, "eos_token_id": ours.eos_id}
    assert special_ids(qwen) == {"eos_token_id": load_tokenizer(qwen).eos_id}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        '{"added_tokens": 3}',
        '{"added_tokens": [{"id": 3}]}',
        '{"added_tokens": ' + "[" * 9999,
    ],
)
def test_damaged_tokenizer_says_nothing(text, tmp_path):
    (tmp_path / "tokenizer.json").write_text(text)
    assert special_ids(tmp_path) == {}
    (tmp_path / "tokenizer.model").write_text(text)
    assert special_ids(tmp_path) == {}


@pytest.mark.parametrize("name", ["bos_token_id", "eos_token_id", "pad_token_id"])
def test_id_out_of_the_vocabulary_is_an_error(name, tmp_path):
    model = directories.copy(LLAMA, tmp_path)
    directories.change_config(model, "text_config", **{name: 128})
    with pytest.raises(UserError, match=rf"{name} is 128; expected an id below 128"):
        open_family(model)


def test_several_ids_of_the_end_are_told(tmp_path):
    model = directories.copy(directories.LLAMA, tmp_path / "model")
    directories.change_config(model, "text_config", eos_token_id=[2, 7])
    opened = open_family(model)
    assert opened.config.llm.eos_token_id == 2
    assert any("eos_token_id [2, 7]; each of them ends an answer" in note for note in opened.notes)


@pytest.mark.parametrize("text_config", [None, [], "words", 3])
def test_a_plain_language_model_may_say_anything_of_a_text_config(tmp_path, text_config):
    values, tensors = directories.config(directories.LLAMA), directories.tensors(directories.LLAMA)
    prefix = "language_model."
    tensors = {
        name.removeprefix(prefix): value
        for name, value in tensors.items()
        if name.startswith(prefix)
    }
    plain = {**values["text_config"], "text_config": text_config, "eos_token_id": [2, 7]}
    opened = open_language(directories.write(tmp_path / "llama", plain, tensors))
    assert any("each of them ends an answer" in note for note in opened.notes)
