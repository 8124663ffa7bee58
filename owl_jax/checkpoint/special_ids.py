"""Which ids begin and end a text, by the tokenizer beside a model's weights.

First-generation LLaMA's config.json has others than its tokenizer, and the tokenizer's are those
that the model was trained with. Only that much of a tokenizer is read as its special ids need: it
is not checked, and weights load without one (text/tokenizer.py reads the whole).
"""

from __future__ import annotations

import json
from pathlib import Path

import sentencepiece

from owl_jax.files import open_regular

# tokenizer.json begins with its added tokens; its vocabulary, megabytes of it, comes after.
_HEAD = 1 << 18


def special_ids(directory: Path) -> dict[str, int]:
    """{"bos_token_id": ..., "eos_token_id": ...} as far as a tokenizer in `directory` has them.

    Empty without a tokenizer that can be read, or where it names no end.
    """
    try:
        if (directory / "tokenizer.model").exists():
            return _of_sentencepiece(directory / "tokenizer.model")
        if (directory / "tokenizer.json").exists():
            return _of_tokenizer_json(directory / "tokenizer.json")
    except (OSError, RuntimeError, ValueError):
        return {}  # whoever needs the tokenizer is told what is wrong with it
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
    found = {"bos_token_id": by_text.get("<s>"), "eos_token_id": by_text.get("</s>")}
    return {name: value for name, value in found.items() if type(value) is int}
