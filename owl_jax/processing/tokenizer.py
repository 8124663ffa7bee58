"""Words to token ids and back, for the two language models: SentencePiece (LLaMA) and a
tokenizer.json (BLOOM).

SentencePiece is called directly, because the released models were trained with the 2023 "slow"
tokenizer, and the newer ones split leading spaces and special strings in another way. Every call of
`encode` is one piece of text with a dummy prefix of its own: joining two encodings is not the
encoding of the joined text, and owl_jax/processing/conversation.py relies on where it is cut.
"""

import io
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

import sentencepiece
import tokenizers

from owl_jax.errors import UserError

SENTENCEPIECE_FILE = "tokenizer.model"
JSON_FILE = "tokenizer.json"

_SPACE = "\u2581"  # how SentencePiece writes a space


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


class SentencePieceTokenizer:
    """LLaMA's tokenizer.model, with the ids of the original's MplugOwlTokenizer (pad is unk)."""

    def __init__(self, path: str | Path) -> None:
        """Read the model file. Raises UserError where it cannot be read or is no such model."""
        processor = sentencepiece.SentencePieceProcessor()
        try:
            processor.LoadFromSerializedProto(Path(path).read_bytes())
        except (OSError, RuntimeError) as error:
            raise UserError(_unreadable(path, "SentencePiece model", error)) from error
        if processor.eos_id() < 0:
            raise UserError(f"{path}: the SentencePiece model has no end-of-sentence piece (</s>)")
        self._processor = processor
        self.bos_id: int | None = processor.bos_id() if processor.bos_id() >= 0 else None
        self.eos_id: int = processor.eos_id()
        self.pad_id: int = processor.unk_id()
        self.vocab_size: int = processor.get_piece_size()
        special = (processor.unk_id(), processor.bos_id(), processor.eos_id())
        self._special: dict[str, int] = {processor.id_to_piece(i): i for i in special if i >= 0}
        self._special_pattern = re.compile("(" + "|".join(map(re.escape, self._special)) + ")")

    def encode(self, text: str) -> list[int]:
        """See Tokenizer. The text between two special strings is encoded as a piece of its own."""
        ids: list[int] = []
        for part in self._special_pattern.split(text):
            if part in self._special:
                ids.append(self._special[part])
            else:
                ids.extend(self._processor.encode(part))
        return ids

    def decode(self, ids: Iterable[int]) -> str:
        """See Tokenizer. Bytes that are not UTF-8 come out as U+FFFD."""
        special = self._special.values()
        kept = [int(i) for i in ids if 0 <= i < self.vocab_size and i not in special]
        return self._processor.decode(kept)


class JsonTokenizer:
    """BLOOM's tokenizer.json; the ids of <s>, </s> and <pad> are read from the file."""

    def __init__(self, path: str | Path) -> None:
        """Read the file. Raises UserError where it cannot be read or lacks </s>."""
        try:
            tokenizer = tokenizers.Tokenizer.from_str(Path(path).read_text(encoding="utf-8"))
        # The library raises plain Exception for a file that it does not understand.
        except Exception as error:
            raise UserError(_unreadable(path, "tokenizers file", error)) from error
        # A file may carry the padding and truncation of whoever saved it.
        tokenizer.no_padding()
        tokenizer.no_truncation()
        eos_id = tokenizer.token_to_id("</s>")
        if eos_id is None:
            raise UserError(f"{path}: the vocabulary has no </s>, which ends every answer")
        pad_id = tokenizer.token_to_id("<pad>")
        self._tokenizer = tokenizer
        self.bos_id: int | None = tokenizer.token_to_id("<s>")
        self.eos_id: int = eos_id
        self.pad_id: int = eos_id if pad_id is None else pad_id
        self.vocab_size: int = tokenizer.get_vocab_size(with_added_tokens=True)

    def encode(self, text: str) -> list[int]:
        """See Tokenizer."""
        return self._tokenizer.encode(text, add_special_tokens=False).ids

    def decode(self, ids: Iterable[int]) -> str:
        """See Tokenizer."""
        kept = [int(i) for i in ids if 0 <= i < self.vocab_size]
        return self._tokenizer.decode(kept, skip_special_tokens=True)


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


def load_tokenizer(directory: str | Path) -> Tokenizer:
    """The tokenizer of a model directory: tokenizer.model, or else tokenizer.json.

    Raises UserError where neither file is there or the one found cannot be read.
    """
    directory = Path(directory)
    if (directory / SENTENCEPIECE_FILE).is_file():
        return SentencePieceTokenizer(directory / SENTENCEPIECE_FILE)
    if (directory / JSON_FILE).is_file():
        return JsonTokenizer(directory / JSON_FILE)
    raise UserError(
        f"{directory}: found neither {SENTENCEPIECE_FILE} (LLaMA) nor {JSON_FILE} (BLOOM); "
        "copy the tokenizer file of the language model there"
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
            user_defined_symbols=[text.replace(" ", _SPACE) for text in whole],
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


def _unreadable(path: str | Path, kind: str, error: Exception) -> str:
    """The line for a tokenizer file that does not open."""
    if isinstance(error, OSError):
        return f"{path}: cannot be read ({error.strerror})"
    return (
        f"{path}: not a readable {kind}; an interrupted download or a Git LFS pointer? "
        "Copy the file again"
    )
