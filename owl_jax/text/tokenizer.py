"""Words to token ids and back, for the two language models: SentencePiece (LLaMA) and a
tokenizer.json (BLOOM).

SentencePiece is called directly, because the released models were trained with the 2023 "slow"
tokenizer, and the newer ones split leading spaces and special strings in another way. Every call of
`encode` is one piece of text with a dummy prefix of its own: joining two encodings is not the
encoding of the joined text, and owl_jax/text/conversation.py relies on where it is cut.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

import sentencepiece

from owl_jax.errors import UserError
from owl_jax.text.json_tokenizer import JsonTokenizer
from owl_jax.text.sentencepiece_tokenizer import SPACE, SentencePieceTokenizer
from owl_jax.text.tokenizer_files import JSON_FILE, is_there

SENTENCEPIECE_FILE = "tokenizer.model"


class Tokenizer(Protocol):
    """What the package asks of a tokenizer. Both classes below can be pickled (data workers)."""

    bos_id: int | None
    eos_id: int
    pad_id: int
    vocab_size: int

    def encode(self, text: str) -> list[int]:
        """Ids of `text`, no BOS or EOS added; special strings in it ("</s>") become their ids."""
        ...

    def decode(self, ids: Iterable[int]) -> str:
        """Text of `ids`, without special ids and ids that name no piece (media, spare rows)."""
        ...


class StreamDecoder:
    """Text of an answer as its ids arrive: all that push and finish return joins to `decode`."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        """Start an answer."""
        self._tokenizer = tokenizer
        self._ids: list[int] = []
        self._sent = 0

    def push(self, token_id: int) -> str:
        """Text that `token_id` adds; "" while the bytes so far end inside a character."""
        self._ids.append(int(token_id))
        # All ids are decoded again: the first space of the whole is dropped, others are not, and
        # for answers of thousands of tokens this is still small beside one step of the model.
        return self._send(self._tokenizer.decode(self._ids).rstrip("\ufffd"))

    def finish(self) -> str:
        """Text held back until now; incomplete characters come out as U+FFFD."""
        return self._send(self._tokenizer.decode(self._ids))

    def _send(self, text: str) -> str:
        new = text[self._sent :]
        self._sent += len(new)
        return new


def has_tokenizer(directory: Path) -> bool:
    """Whether `load_tokenizer` would find a file to read."""
    return any(is_there(directory / name) for name in (SENTENCEPIECE_FILE, JSON_FILE))


def load_tokenizer(directory: str | Path) -> Tokenizer:
    """The tokenizer of a model directory: tokenizer.model, or else tokenizer.json.

    Raises UserError where neither file is there or the one found cannot be read.
    """
    directory = Path(directory)
    if is_there(directory / SENTENCEPIECE_FILE):
        return SentencePieceTokenizer(directory / SENTENCEPIECE_FILE)
    if is_there(directory / JSON_FILE):
        return JsonTokenizer(directory / JSON_FILE)
    raise UserError(
        f"{directory}: found neither {SENTENCEPIECE_FILE} (LLaMA) nor {JSON_FILE} (BLOOM); "
        "copy the tokenizer file of the language model there"
    )


def check_vocabulary(tokenizer: Tokenizer, size: int, source: str | Path) -> None:
    """Raises UserError for a tokenizer with ids that a model of `size` words does not have.

    source: where the tokenizer is from, for the message.
    """
    if tokenizer.vocab_size > size:
        raise UserError(
            f"{source}: the tokenizer has {tokenizer.vocab_size} pieces, the model {size}; copy "
            "the tokenizer it was trained with there"
        )


def train_sentencepiece(
    texts: Iterable[str], vocab_size: int, target: Path, whole: Sequence[str] = ()
) -> None:
    """Train a small LLaMA-like tokenizer on `texts` and write it to the file `target`.

    whole: strings that become one piece each, however long.

    BPE with byte fallback, single digits, identity normalisation and dummy prefix; unk 0, bos 1,
    eos 2, no pad. The same texts give the same file. Raises UserError where `vocab_size` does not
    suit the texts (3 special and 256 byte pieces and every character must fit in it).
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
            # Longer lines would be left out without a word.
            max_sentence_length=1 << 20,
            num_threads=1,
            minloglevel=2,
        )
    except RuntimeError as error:
        # After the place in the library's source and the condition that failed.
        reason = str(error).strip().splitlines()[-1].rpartition("] ")[2]
        raise UserError(f"no tokenizer of {vocab_size} pieces for these texts: {reason}") from error
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(model.getvalue())


def _lines(texts: Iterable[str]) -> Iterator[str]:
    """Lines, so that no piece is learned with a newline in it: that stays <0x0A>, as in LLaMA."""
    return (line for text in texts for line in text.split("\n") if line)
