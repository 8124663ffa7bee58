"""Tokens that the files beside a tokenizer add or name, for both kinds of tokenizer."""

import json
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import tokenizers
from tokenizers import decoders, models, pre_tokenizers

from owl_jax.errors import UserError
from owl_jax.text.conversation import tokenize_conversation
from owl_jax.text.media_index import MediaLengths
from owl_jax.text.tokenizer import (
    StreamDecoder,
    check_vocabulary,
    has_tokenizer,
    load_tokenizer,
)

GOLDENS = Path(__file__).parents[1] / "goldens" / "case08_text_pipeline"
RECORD = json.loads((GOLDENS / "texts.json").read_text(encoding="utf-8"))
NUM_PIECES = 460
END = "<|im_end|>"


@pytest.fixture
def llama(tmp_path):
    """Writes a directory of the recorded tokenizer.model and the files given by name."""

    def write(**files) -> Path:
        shutil.copy(GOLDENS / "tokenizer.model", tmp_path)
        write_files(tmp_path, files)
        return tmp_path

    return write


@pytest.fixture
def bloom(tmp_path):
    """Writes a directory of a byte-level tokenizer.json and the files given by name.

    Its ids: 256 bytes, <s>, </s> and, added by the file itself, <x>.
    """

    def write(**files) -> Path:
        pieces = [*sorted(pre_tokenizers.ByteLevel.alphabet()), "<s>", "</s>"]
        vocabulary = {piece: id for id, piece in enumerate(pieces)}
        tokenizer = tokenizers.Tokenizer(models.BPE(vocabulary, []))
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        tokenizer.add_special_tokens(["<s>", "</s>"])
        tokenizer.add_tokens(["<x>"])
        tokenizer.save(str(tmp_path / "tokenizer.json"))
        write_files(tmp_path, files)
        return tmp_path

    return write


def write_files(directory: Path, files) -> None:
    for name, values in files.items():
        text = values if isinstance(values, str) else json.dumps(values)
        (directory / f"{name}.json").write_text(text, encoding="utf-8")


def decoder(content=END, id=NUM_PIECES, **flags):
    return {"added_tokens_decoder": {str(id): {"content": content, **flags}}}


def test_the_files_that_the_original_writes_change_nothing(llama):
    files = {
        path.stem: path.read_text(encoding="utf-8") for path in (GOLDENS / "hf_tokenizer").iterdir()
    }
    tokenizer = load_tokenizer(llama(**files))
    ids = (tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id, tokenizer.vocab_size)
    assert ids == (1, 2, 0, NUM_PIECES)
    assert [tokenizer.encode(text) for text in RECORD["raw_strings"]] == RECORD["raw_ids"]
    assert [tokenizer.decode(ids) for ids in RECORD["raw_ids"]] == RECORD["raw_decoded"]


@pytest.mark.parametrize(
    "files",
    [
        {"added_tokens": {END: NUM_PIECES}},
        {"tokenizer_config": decoder()},
        {"tokenizer_config": decoder(lstrip=False, normalized=True), "added_tokens": {END: 460}},
        {"added_tokens": {END: 460}, "special_tokens_map": {"eos_token": "</s>"}},
    ],
)
def test_text_around_an_added_token_is_encoded_separately(llama, files):
    tokenizer = load_tokenizer(llama(**files))
    plain = load_tokenizer(GOLDENS)
    text = f"hello{END}\nx {END} y</s>"
    ids = [*plain.encode("hello"), 460, *plain.encode("\nx "), 460, *plain.encode(" y"), 2]
    assert tokenizer.encode(text) == ids
    assert tokenizer.decode(ids) == text.removesuffix("</s>")
    assert tokenizer.vocab_size == NUM_PIECES + 1
    assert (tokenizer.bos_id, tokenizer.eos_id) == (1, 2)
    stream = StreamDecoder(tokenizer)
    assert "".join(map(stream.push, ids)) + stream.finish() == tokenizer.decode(ids)
    assert pickle.loads(pickle.dumps(tokenizer)).encode(text) == ids


def test_texts_without_added_tokens_keep_their_ids(llama):
    tokenizer = load_tokenizer(llama(added_tokens={END: 460, "<pad>": 461}))
    assert [tokenizer.encode(text) for text in RECORD["raw_strings"]] == RECORD["raw_ids"]
    assert [tokenizer.decode(ids) for ids in RECORD["raw_ids"]] == RECORD["raw_decoded"]


@pytest.mark.parametrize(
    "files",
    [
        {"tokenizer_config": decoder(special=True)},
        {
            "added_tokens": {END: 460},
            "special_tokens_map": {"additional_special_tokens": [END, {"content": "<s>"}]},
        },
        {
            "added_tokens": {END: 460},
            "tokenizer_config": {"extra_special_tokens": {"im_end": END}},
        },
    ],
)
def test_decoding_omits_special_added_tokens(llama, files):
    tokenizer = load_tokenizer(llama(**files))
    assert tokenizer.encode(f"hello{END}")[-1] == 460
    assert tokenizer.decode([*tokenizer.encode("hello"), 460]) == "hello"
    assert tokenizer.eos_id == 2


@pytest.mark.parametrize(
    ("files", "ids"),
    [
        ({"special_tokens_map": {"eos_token": END}}, (1, 460, 0)),
        ({"special_tokens_map": {"eos_token": {"content": END, "rstrip": False}}}, (1, 460, 0)),
        (
            {"tokenizer_config": {"eos_token": {"__type": "AddedToken", "content": END}}},
            (1, 460, 0),
        ),
        ({"tokenizer_config": {"pad_token": END}}, (1, 2, 460)),
        ({"special_tokens_map": {"bos_token": END}}, (460, 2, 0)),
        ({"special_tokens_map": {"bos_token": "</s>", "unk_token": "</s>"}}, (2, 2, 0)),
        ({"tokenizer_config": {"pad_token": "[PAD]"}}, (1, 2, 0)),  # without id, as many have
        # Of the first conversions of LLaMA.
        ({"tokenizer_config": {"bos_token": "", "eos_token": "", "unk_token": ""}}, (1, 2, 0)),
        ({"tokenizer_config": {"bos_token": None}}, (None, 2, 0)),
        # The conversation begins with BOS, whoever writes it.
        ({"tokenizer_config": {"add_bos_token": False}}, (1, 2, 0)),
        ({"tokenizer_config": {"add_bos_token": True, "eos_token": None}}, (1, 2, 0)),
    ],
)
def test_named_tokens_are_bos_eos_and_pad(llama, files, ids):
    tokenizer = load_tokenizer(llama(added_tokens={END: 460}, **files))
    assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id) == ids
    assert tokenizer.encode(END) == [460]
    assert tokenizer.vocab_size == 461


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"added_tokens": {"@a": 5}}, r"'@a' of added_tokens.json .* 5, which is the piece"),
        ({"added_tokens": {"@a": 461}}, r"has the id 461, and no token has the id 460"),
        ({"added_tokens": {"@a": 460, "@b": 460}}, r"the id 460 is '@a' .* and '@b'"),
        (
            {"added_tokens": {"</s>": 460}},
            r"is already piece 2 of tokenizer.model; give it the id 2",
        ),
        ({"tokenizer_config": decoder(single_word=True)}, "single_word=true"),
        (
            {"tokenizer_config": decoder(), "added_tokens": {END: 461}},
            "460 in tokenizer_config.json and 461 in added_tokens.json",
        ),
        (
            {"tokenizer_config": {"eos_token": "<s>"}, "special_tokens_map": {"eos_token": "</s>"}},
            "eos_token is '<s>' in tokenizer_config.json and '</s>' in special_tokens_map.json",
        ),
        ({"special_tokens_map": {"eos_token": END}}, "has no id"),
        ({"tokenizer_config": {"additional_special_tokens": [END]}}, "has no id"),
        ({"tokenizer_config": {"add_eos_token": True}}, "add_eos_token=true"),
        ({"tokenizer_config": {"add_prefix_space": False}}, "add_prefix_space=false"),
        ({"tokenizer_config": {"split_special_tokens": True}}, "split_special_tokens=true"),
        ({"tokenizer_config": {"do_lower_case": True}}, "do_lower_case=true"),
        ({"tokenizer_config": {"sp_model_kwargs": {"enable_sampling": True}}}, "sp_model_kwargs"),
    ],
)
def test_contradicting_files_are_refused_in_one_line(llama, files, words):
    with pytest.raises(UserError, match=words) as error:
        load_tokenizer(llama(**files))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("id", ["460", -1, 460.0, 10**30, None, True, [460], {}])
def test_an_id_of_the_wrong_type_is_refused(llama, id):
    with pytest.raises(UserError, match=r"added_tokens\.json: Expected `int`"):
        load_tokenizer(llama(added_tokens={END: id}))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("added_tokens", "[]"),
        ("added_tokens", '{"a": 460'),
        ("added_tokens", ""),
        ("added_tokens", "\x00" * 20),
        ("added_tokens", '{"a":' * 10_000),
        ("added_tokens", '{"": 460}'),
        ("added_tokens", '{"\\ud800": 460}'),
        ("added_tokens", '{"a": "\\ud800"}'),
        ("special_tokens_map", '{"eos_token": 2}'),
        ("special_tokens_map", '{"eos_token": {"lstrip": true}}'),
        ("special_tokens_map", '{"bos_token": "\\ud800"}'),
        ("special_tokens_map", '{"additional_special_tokens": "<s>"}'),
        ("tokenizer_config", '{"added_tokens_decoder": {"x": {"content": "x"}}}'),
        ("tokenizer_config", '{"added_tokens_decoder": {"-1": {"content": "x"}}}'),
        ("tokenizer_config", '{"added_tokens_decoder": {"460": "x"}}'),
        ("tokenizer_config", '{"added_tokens_decoder": {"460": {"content": 7}}}'),
        ("tokenizer_config", '{"added_tokens_decoder": [{"content": "x"}]}'),
        ("tokenizer_config", '{"add_eos_token": "false"}'),
        ("tokenizer_config", '{"eos_token": [{"content": "</s>"}]}'),
    ],
)
def test_a_damaged_file_is_named_in_one_line(llama, bloom, name, content):
    for write in (bloom, llama):
        directory = write(**{name: content})
        with pytest.raises(UserError) as error:
            load_tokenizer(directory)
        assert str(error.value).startswith(str(directory)) and "\n" not in str(error.value)


def test_too_many_added_tokens_are_refused(llama, bloom):
    many = {f"<{number}>": NUM_PIECES + number for number in range(140_000)}
    with pytest.raises(UserError, match=r"added_tokens\.json: 140,000 added tokens"):
        load_tokenizer(llama(added_tokens=many))


def test_tokens_of_a_tokenizer_json_beside_the_model_count(llama):
    pieces = {f"piece {number}": number for number in range(NUM_PIECES)}
    file = {
        "model": {"vocab": pieces},
        "added_tokens": [
            {"id": 2, "content": "</s>", "special": True},
            {"id": 460, "content": END},
        ],
    }
    directory = llama(tokenizer=file)
    tokenizer = load_tokenizer(directory)
    assert (tokenizer.encode(END), tokenizer.vocab_size) == ([460], 461)
    write_files(directory, {"added_tokens": {"<other>": 460}})
    with pytest.raises(UserError, match=r"in added_tokens\.json and .* in tokenizer\.json"):
        load_tokenizer(directory)


def test_a_tokenizer_json_of_another_size_is_logged(llama, caplog):
    file = {"model": {"vocab": {"a": 0}}, "added_tokens": [{"id": 1, "content": END}]}
    tokenizer = load_tokenizer(llama(tokenizer=file))
    assert tokenizer.vocab_size == NUM_PIECES
    (told,) = caplog.messages
    assert "using tokenizer.model (460 pieces), ignoring tokenizer.json (1) beside it" in told


@pytest.mark.parametrize(
    ("files", "ids", "size"),
    [
        ({}, (256, 257, 257), 259),
        ({"special_tokens_map": {"eos_token": "<x>", "pad_token": "<s>"}}, (256, 258, 256), 259),
        ({"tokenizer_config": {"bos_token": None, "eos_token": "</s>"}}, (None, 257, 257), 259),
        ({"tokenizer_config": {"add_bos_token": False}}, (256, 257, 257), 259),
        (
            {"added_tokens": {END: 259, "<y>": 260}, "special_tokens_map": {"eos_token": END}},
            (256, 259, 259),
            261,
        ),
        ({"tokenizer_config": {**decoder(id=259), "eos_token": END}}, (256, 259, 259), 260),
        # A flag of texts that the file itself follows.
        ({"tokenizer_config": {"add_prefix_space": False}}, (256, 257, 257), 259),
    ],
)
def test_tokenizer_json_with_tokens_from_other_files(bloom, files, ids, size):
    tokenizer = load_tokenizer(bloom(**files))
    assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id) == ids
    assert tokenizer.vocab_size == size
    end = tokenizer.encode("a</s>b" if ids[1] == 257 else f"a{END}b" if size > 259 else "a<x>b")
    assert len(end) == 3 and end[1] == tokenizer.eos_id
    assert tokenizer.decode(end) == "ab"
    if "added_tokens" in files:
        assert tokenizer.decode(tokenizer.encode("a<y>b")) == "a<y>b"
    assert pickle.loads(pickle.dumps(tokenizer)).encode("a<x>b") == tokenizer.encode("a<x>b")


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"added_tokens": {END: 260}}, "has the id 260 in added_tokens.json, but 259"),
        ({"added_tokens": {END: 5}}, "has the id 5 in added_tokens.json, but 259"),
        ({"added_tokens": {"<x>": 259}}, "'<x>' has the id 259 .* and 258 in tokenizer.json"),
        ({"special_tokens_map": {"eos_token": END}}, "has no id"),
        ({"tokenizer_config": {"add_eos_token": True}}, "add_eos_token=true"),
    ],
)
def test_tokenizer_json_that_does_not_fit_other_files(bloom, files, words):
    with pytest.raises(UserError, match=words):
        load_tokenizer(bloom(**files))


def test_answers_end_with_the_named_token(llama):
    tokenizer = load_tokenizer(llama(added_tokens={END: 460}, tokenizer_config={"eos_token": END}))
    tokens = tokenize_conversation(
        "Human: a\nAI: b\nHuman: c\nAI: d", tokenizer, MediaLengths(5, 5), 64
    )
    assert tokens.input_ids[-1] == 460 and tokens.loss_mask[-1]
    assert np.count_nonzero(tokens.input_ids == 460) == 2
    assert 2 not in tokens.input_ids


def test_a_tokenizer_needs_a_vocabulary_of_its_size(llama):
    tokenizer = load_tokenizer(llama(added_tokens={END: 460}))
    check_vocabulary(tokenizer, 461, "here")
    with pytest.raises(UserError, match="here: the tokenizer has 461 pieces, the model 460"):
        check_vocabulary(tokenizer, 460, "here")


def test_a_directory_with_a_tokenizer_is_known(llama, tmp_path):
    assert not has_tokenizer(tmp_path)
    assert has_tokenizer(llama())
    for nowhere in ("x" * 300, "a\0b"):
        with pytest.raises(
            UserError, match=r"found neither tokenizer\.model nor tokenizer\.json; copy"
        ):
            load_tokenizer(tmp_path / nowhere)
