"""Tokens that files beside a tokenizer add and name: the ids that transformers gives them.

Its LLaMA tokenizer treats what follows an added token in another way than the slow one of 2023, so
that texts are compared up to their first added token, which is at the end.
"""

import json
import shutil
from pathlib import Path

import pytest
import tokenizers
import transformers
from tokenizers import decoders, models, pre_tokenizers

from owl_jax.text.tokenizer import load_tokenizer

GOLDENS = Path(__file__).parents[1] / "goldens" / "case08_text_pipeline"
END = "<|im_end|>"
LLAMA = {"tokenizer_class": "LlamaTokenizer"}
FAST = {"tokenizer_class": "PreTrainedTokenizerFast"}

FILES = [
    {},
    {"added_tokens": {END: 0, "<x>": 1}},
    {"added_tokens": {"[PAD]": 0}, "special_tokens_map": {"pad_token": "[PAD]"}},
    {"added_tokens": {END: 0}, "special_tokens_map": {"eos_token": END}},
    {"added_tokens": {END: 0}, "special_tokens_map": {"eos_token": {"content": END}}},
    {"tokenizer_config": {"added_tokens_decoder": {0: {"content": END}}, "eos_token": END}},
    {
        "tokenizer_config": {
            "added_tokens_decoder": {0: {"content": "<x>"}, 1: {"content": END, "special": True}},
            "pad_token": END,
        }
    },
]


def write(directory: Path, files, first: int, kind) -> None:
    """Writes `files` with ids that begin at `first`."""
    config = {"eos_token": "</s>", "bos_token": "<s>", **kind, **files.get("tokenizer_config", {})}
    if "eos_token" in files.get("special_tokens_map", {}):
        del config["eos_token"]
    tokens = config.get("added_tokens_decoder")
    if tokens is not None:
        config["added_tokens_decoder"] = {first + id: token for id, token in tokens.items()}
    added = {content: first + id for content, id in files.get("added_tokens", {}).items()}
    written = {**files, "tokenizer_config": config} | ({"added_tokens": added} if added else {})
    for name, values in written.items():
        (directory / f"{name}.json").write_text(json.dumps(values))


def compare(directory: Path) -> None:
    ours = load_tokenizer(directory)
    theirs = transformers.AutoTokenizer.from_pretrained(directory)
    assert ours.vocab_size == len(theirs)
    assert (ours.bos_id, ours.eos_id) == (theirs.bos_token_id, theirs.eos_token_id)
    if theirs.pad_token_id is not None:
        assert ours.pad_id == theirs.pad_token_id
    for text in ("the owl", f"the owl{END}", "the owl<x>", "the owl[PAD]", "the owl</s>"):
        ids = ours.encode(text)
        assert ids == theirs.encode(text, add_special_tokens=False)
        assert ours.decode(ids) == theirs.decode(ids, skip_special_tokens=True)


@pytest.mark.parametrize("files", FILES)
def test_sentencepiece(tmp_path, files):
    shutil.copy(GOLDENS / "tokenizer.model", tmp_path)
    write(tmp_path, files, 460, LLAMA)
    compare(tmp_path)


@pytest.mark.parametrize("files", FILES)
def test_tokenizer_json(tmp_path, files):
    pieces = [*sorted(pre_tokenizers.ByteLevel.alphabet()), "<s>", "</s>"]
    tokenizer = tokenizers.Tokenizer(models.BPE({p: id for id, p in enumerate(pieces)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<s>", "</s>"])
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    write(tmp_path, files, 258, FAST)
    compare(tmp_path)
