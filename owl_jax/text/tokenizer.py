"""Tokenizers: SentencePiece (LLaMA, Mistral) and tokenizer.json (BLOOM, Qwen, LLaMA 3).

This file loads them, streams answers and trains small ones.

SentencePiece is called directly: the released models were trained with the "slow" tokenizer of
2023, and newer ones split leading spaces and special strings differently. Every call of its
`encode` adds a dummy prefix, so a text encoded in two parts has different ids than the whole text;
text/conversation.py relies on that.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import sentencepiece

from owl_jax.errors import UserError
from owl_jax.text.json_tokenizer import JsonTokenizer
from owl_jax.text.sentencepiece_tokenizer import SentencePieceTokenizer
from owl_jax.text.token_bytes import SPACE
from owl_jax.text.tokenizer_files import JSON_FILE, is_there

SENTENCEPIECE_FILE = "tokenizer.model"


class Tokenizer(Protocol):
    """The interface of a tokenizer. Implementations are picklable, for data workers.

    adds_bos: whether its files say that a text begins with BOS.
    special_tokens: the tokens that `decode` ignores, by id.
    """

    bos_id: int | None
    eos_id: int
    pad_id: int
    vocab_size: int
    adds_bos: bool
    special_tokens: Mapping[int, str]

    def encode(self, text: str) -> list[int]:
        """Ids of `text` without BOS or EOS; special strings in it ("</s>") become their ids."""
        ...

    def decode(self, ids: Iterable[int]) -> str:
        """Text of `ids`; ignores special ids and ids without a piece (media, unused embeddings)."""
        ...

    def token_id(self, text: str) -> int | None:
        """The id of a text that is always one token; None for any other text."""
        ...

    def token_bytes(self, id: int) -> bytes:
        """What a token adds within a text; empty for special ids and ids without a piece."""
        ...


# Tokens of an answer that StreamDecoder decodes again with a new one.
_MOST_CONTEXT, _LEAST_CONTEXT = 48, 16


class StreamDecoder:
    """Streams an answer's text: what push and finish return adds up to the result of `decode`."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        """Starts an answer."""
        self._tokenizer = tokenizer
        self._ids: list[int] = []
        self._sent = 0

    def push(self, token_id: int) -> str:
        """The text that `token_id` adds; "" while a character is incomplete."""
        self._ids.append(int(token_id))
        # Decode earlier ids again: alone, each token would lose its leading space.
        text = self._tokenizer.decode(self._ids)
        new = self._send(text.rstrip("\ufffd"))
        if len(self._ids) > _MOST_CONTEXT:
            self._forget(text)
        return new

    def finish(self) -> str:
        """The remaining text; an incomplete character becomes U+FFFD."""
        return self._send(self._tokenizer.decode(self._ids))

    def _forget(self, text: str) -> None:
        """Drops ids that no longer change what follows: a server streams many long answers."""
        last = self._ids[-_LEAST_CONTEXT:]
        kept = self._tokenizer.decode(last)
        # Not in the middle of a character, nor right after a space.
        if kept and "\ufffd" not in kept and text.endswith(kept) and self._sent == len(text):
            self._ids, self._sent = last, len(kept)

    def _send(self, text: str) -> str:
        new = text[self._sent :]
        self._sent += len(new)
        return new


def has_tokenizer(directory: Path) -> bool:
    """Whether `load_tokenizer` would find a file to read."""
    return any(is_there(directory / name) for name in (SENTENCEPIECE_FILE, JSON_FILE))


def load_tokenizer(directory: str | Path) -> Tokenizer:
    """The tokenizer of a model directory: tokenizer.model, or else tokenizer.json.

    Raises UserError if neither exists or the one found cannot be read.
    """
    directory = Path(directory)
    if is_there(directory / SENTENCEPIECE_FILE):
        return SentencePieceTokenizer(directory / SENTENCEPIECE_FILE)
    if is_there(directory / JSON_FILE):
        return JsonTokenizer(directory / JSON_FILE)
    raise UserError(
        f"{directory}: found neither {SENTENCEPIECE_FILE} nor {JSON_FILE}; copy the language "
        "model's tokenizer files there"
    )


def check_vocabulary(tokenizer: Tokenizer, size: int, source: str | Path) -> None:
    """Raises UserError for a tokenizer with ids beyond a model's vocabulary of `size`.

    source: the tokenizer's origin, for the message.
    """
    if tokenizer.vocab_size > size:
        raise UserError(
            f"{source}: the tokenizer has {tokenizer.vocab_size} pieces, the model {size}; replace "
            "it with the tokenizer that the model was trained with"
        )


def train_sentencepiece(
    texts: Iterable[str], vocab_size: int, target: Path, whole: Sequence[str] = ()
) -> None:
    """Trains a small LLaMA-like tokenizer on `texts` and writes it to the file `target`.

    whole: strings, however long, that become one piece each.

    BPE with byte fallback, single digits, identity normalisation and dummy prefix; unk 0, bos 1,
    eos 2, no pad. Deterministic. Raises UserError if `vocab_size` does not suit the texts: it must
    hold 3 special pieces, 256 byte pieces and every character.
    """
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=_lines(texts),
            model_writer=model,
            vocab_size=vocab_size,
            model_type="bpe",
            byte_fallback=True,
            character_coverage=1.0,
            split_digits=True,
            normalization_rule_name="identity",
            remove_extra_whitespaces=False,
            add_dummy_prefix=True,
            unk_id=0,
            bos_id=1,
            eos_id=2,
            pad_id=-1,
            user_defined_symbols=[text.replace(" ", SPACE) for text in whole],
            # SentencePiece silently skips longer lines.
            max_sentence_length=1 << 20,
            num_threads=1,
            minloglevel=2,
        )
    except RuntimeError as error:
        # The reason follows a source location and the failed condition.
        reason = str(error).strip().splitlines()[-1].rpartition("] ")[2]
        raise UserError(
            f"cannot train a tokenizer of {vocab_size} pieces on these texts: {reason}"
        ) from error
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(model.getvalue())


def _lines(texts: Iterable[str]) -> Iterator[str]:
    """The nonempty lines of texts: as in LLaMA, a newline is <0x0A>, never part of a piece."""
    return (line for text in texts for line in text.split("\n") if line)
