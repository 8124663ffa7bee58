"""Tokenizers against the record of the original (goldens case 8), and loading from files."""

import json
import pickle
from pathlib import Path

import pytest
import sentencepiece
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, processors, trainers

from owl_jax.errors import UserError
from owl_jax.text.tokenizer import (
    JsonTokenizer,
    SentencePieceTokenizer,
    StreamDecoder,
    load_tokenizer,
    train_sentencepiece,
)

GOLDENS = Path(__file__).parents[1] / "goldens" / "case08_text_pipeline"
RECORD = json.loads((GOLDENS / "texts.json").read_text(encoding="utf-8"))
CAPTIONS = [
    "A red circle is left of the blue square.",
    "How many green triangles are there?\nThere are 12.",
    "Which picture is brighter, the first or the second one?",
]


@pytest.fixture(scope="module")
def llama() -> SentencePieceTokenizer:
    return SentencePieceTokenizer(GOLDENS / "tokenizer.model")


@pytest.fixture(scope="module")
def bloom_directory(tmp_path_factory) -> Path:
    """A tokenizer.json built like BLOOM's: byte-level BPE, <unk> <s> </s> <pad> first, saved by
    someone who padded, truncated and added BOS."""
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        CAPTIONS * 5,
        trainers.BpeTrainer(
            vocab_size=330,
            special_tokens=["<unk>", "<s>", "</s>", "<pad>"],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 1)]
    )
    tokenizer.enable_padding(pad_id=3, pad_token="<pad>", length=64)
    tokenizer.enable_truncation(5)
    directory = tmp_path_factory.mktemp("bloom")
    tokenizer.save(str(directory / "tokenizer.json"))
    return directory


def test_words_are_not_cut_by_chance(bloom_directory, tmp_path):
    values = json.loads((bloom_directory / "tokenizer.json").read_text())
    assert values["model"]["type"] == "BPE"
    values["model"]["dropout"] = 0.9
    (tmp_path / "tokenizer.json").write_text(json.dumps(values))
    plain, dropped = load_tokenizer(bloom_directory), load_tokenizer(tmp_path)
    text = "The assistant gives helpful answers. " * 9
    assert [dropped.encode(text) for _ in range(5)] == [plain.encode(text)] * 5


def test_sentencepiece_ids_and_texts_are_the_originals(llama):
    assert (llama.bos_id, llama.eos_id, llama.pad_id, llama.vocab_size) == (1, 2, 0, 460)
    assert [llama.encode(text) for text in RECORD["raw_strings"]] == RECORD["raw_ids"]
    assert [llama.decode(ids) for ids in RECORD["raw_ids"]] == RECORD["raw_decoded"]


def test_decode_omits_media_and_unused_ids(llama, bloom_directory):
    for tokenizer in (llama, load_tokenizer(bloom_directory)):
        ids = [tokenizer.bos_id, -1, -2, *tokenizer.encode("the owl"), tokenizer.vocab_size + 7]
        assert tokenizer.decode(ids) == "the owl"


def test_json_tokenizer_reads_ids_from_the_file_and_adds_nothing(bloom_directory):
    tokenizer = load_tokenizer(bloom_directory)
    assert isinstance(tokenizer, JsonTokenizer)
    assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id) == (1, 2, 3)
    text = " A red circle,  zwölf 🦉\nand twelve blue squares"
    ids = tokenizer.encode(text)
    assert len(ids) > 5 and not {1, 2, 3} & set(ids)
    assert tokenizer.decode(ids) == text
    assert tokenizer.encode("x</s>y").count(2) == 1
    assert tokenizer.encode("") == []


def test_json_tokenizer_without_pad_pads_with_eos(bloom_directory, tmp_path):
    content = json.loads((bloom_directory / "tokenizer.json").read_text(encoding="utf-8"))
    content["added_tokens"] = [t for t in content["added_tokens"] if t["content"] != "<pad>"]
    content["model"]["vocab"]["<spare>"] = content["model"]["vocab"].pop("<pad>")
    (tmp_path / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")
    assert load_tokenizer(tmp_path).pad_id == 2


def test_tokenizers_can_be_pickled(llama, bloom_directory):
    for tokenizer in (llama, load_tokenizer(bloom_directory)):
        copy = pickle.loads(pickle.dumps(tokenizer))
        assert copy.encode("a </s> b") == tokenizer.encode("a </s> b")


@pytest.mark.parametrize("text", ["café 猫 🦉 done", " two  spaces ", "🦉🦉", "a </s> b", ""])
def test_streamed_text_joins_to_the_decoded_text(llama, bloom_directory, text):
    for tokenizer in (llama, load_tokenizer(bloom_directory)):
        ids = tokenizer.encode(text)
        stream = StreamDecoder(tokenizer)
        pushed = [stream.push(token_id) for token_id in ids]
        assert all("\ufffd" not in part for part in pushed)
        assert "".join(pushed) + stream.finish() == tokenizer.decode(ids)
        assert stream.finish() == ""


def test_stream_buffers_a_character_until_its_last_byte(llama):
    owl = llama.encode("🦉")[-4:]
    stream = StreamDecoder(llama)
    assert [stream.push(token_id) for token_id in owl] == ["", "", "", "🦉"]
    assert stream.push(owl[0]) == ""
    assert stream.finish() == "\ufffd"


def test_stream_sends_broken_bytes_once_text_follows(llama):
    broken = llama.encode("🦉")[-4]
    stream = StreamDecoder(llama)
    assert stream.push(broken) == ""
    assert stream.push(llama.encode("the")[0]) == "\ufffd the"


def test_trained_tokenizer_is_llama_like_and_deterministic(tmp_path):
    first, second = tmp_path / "a" / "tokenizer.model", tmp_path / "b" / "tokenizer.model"
    train_sentencepiece(iter(CAPTIONS * 5), 330, first)
    train_sentencepiece(iter(CAPTIONS * 5), 330, second)
    assert first.read_bytes() == second.read_bytes()
    tokenizer = load_tokenizer(first.parent)
    assert isinstance(tokenizer, SentencePieceTokenizer)
    assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id) == (1, 2, 0)
    assert tokenizer.vocab_size == 330
    for text in (*CAPTIONS, "  Zwölf\n\n 🦉\t12 "):
        assert tokenizer.decode(tokenizer.encode(text)) == text
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(first))
    assert pieces.pad_id() == -1
    assert pieces.encode("\n", out_type=str) == ["▁", "<0x0A>"]
    assert pieces.encode("12", out_type=str)[-2:] == ["1", "2"]


def test_training_uses_texts_longer_than_sentencepieces_default(tmp_path):
    target = tmp_path / "tokenizer.model"
    train_sentencepiece([" ".join(CAPTIONS[:1] * 200)], 300, target)
    assert len(load_tokenizer(tmp_path).encode("A red circle")) < len("A red circle")


@pytest.mark.parametrize("vocab_size", [100, 100_000])
def test_training_refuses_an_unsuitable_size_in_one_line(tmp_path, vocab_size):
    with pytest.raises(UserError, match=str(vocab_size)) as error:
        train_sentencepiece(CAPTIONS, vocab_size, tmp_path / "tokenizer.model")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "tokenizer.model").exists()


def test_directory_without_tokenizer_names_both_files(tmp_path):
    for directory in (tmp_path, tmp_path / "absent"):
        with pytest.raises(UserError, match=r"tokenizer\.model.*tokenizer\.json"):
            load_tokenizer(directory)


@pytest.mark.parametrize("name", ["tokenizer.model", "tokenizer.json"])
@pytest.mark.parametrize("content", [b"", b"version https://git-lfs.github.com/spec/v1\n", b"\xff"])
def test_unreadable_file_is_named_in_one_line(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=f"{name}: not a readable") as error:
        load_tokenizer(tmp_path)
    assert "\n" not in str(error.value)


def test_missing_file_is_named(tmp_path):
    for kind in (SentencePieceTokenizer, JsonTokenizer):
        with pytest.raises(UserError, match="absent: cannot be read"):
            kind(tmp_path / "absent")


def test_json_without_eos_is_refused(tmp_path):
    tokenizers.Tokenizer(models.BPE()).save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(UserError, match="</s>"):
        load_tokenizer(tmp_path)
