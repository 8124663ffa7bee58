"""The BOS and EOS ids of the tokenizer beside a model's weights.

In first-generation LLaMA, config.json disagrees with the tokenizer, and the model was trained with
the tokenizer's ids. Only the special ids are read; the tokenizer is not checked, and weights load
without one (text/tokenizer.py reads all of it).
"""

from __future__ import annotations

import json
from pathlib import Path

import sentencepiece

from owl_jax.errors import UserError
from owl_jax.files import open_regular
from owl_jax.text.special_tokens import read_special_tokens

# tokenizer.json begins with its added tokens; the vocabulary, megabytes long, follows.
_HEAD = 1 << 18


def special_ids(directory: Path) -> dict[str, int]:
    """{"bos_token_id": ..., "eos_token_id": ...}, those that the tokenizer in `directory` has.

    Empty without a readable tokenizer.
    """
    try:
        if (directory / "tokenizer.model").exists():
            return _of_sentencepiece(directory / "tokenizer.model")
        if (directory / "tokenizer.json").exists():
            return _of_tokenizer_json(directory / "tokenizer.json")
    except (OSError, RuntimeError, ValueError, UserError):
        return {}  # text/tokenizer.py reports the error to whoever needs the tokenizer
    return {}


def _of_sentencepiece(path: Path) -> dict[str, int]:
    with open_regular(path) as file:
        proto = file.read()
    processor = sentencepiece.SentencePieceProcessor(model_proto=proto)
    ids = {"bos_token_id": processor.bos_id(), "eos_token_id": processor.eos_id()}
    return {name: value for name, value in ids.items() if value >= 0}


def _of_tokenizer_json(path: Path) -> dict[str, int]:
    with open_regular(path) as file:
        head = file.read(_HEAD).decode("utf-8", "ignore")
    start = head.find('"added_tokens"')
    if start < 0:
        return {}
    value = head[start + len('"added_tokens"') :].lstrip().removeprefix(":").lstrip()
    try:
        tokens, _ = json.JSONDecoder().raw_decode(value)
        by_text = {token["content"]: token["id"] for token in tokens}
    except (KeyError, TypeError, RecursionError):
        return {}
    beside = read_special_tokens(path.parent)
    bos, eos = beside.bos or "<s>", beside.eos or "</s>"
    found = {"bos_token_id": by_text.get(bos), "eos_token_id": by_text.get(eos)}
    return {name: value for name, value in found.items() if type(value) is int}
