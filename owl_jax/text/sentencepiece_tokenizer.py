"""SentencePiece tokenizers (LLaMA's tokenizer.model), with tokens that files beside them add."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import sentencepiece
from absl import logging

from owl_jax.errors import UserError, shown
from owl_jax.text.added_tokens import AddedToken, Splitter
from owl_jax.text.special_tokens import (
    ADDS_NO_SPACE,
    CONFIG_FILE,
    check_needed,
    check_settings,
    read_special_tokens,
)
from owl_jax.text.tokenizer_files import (
    JSON_FILE,
    PROBE,
    is_there,
    read_file,
    read_json_vocabulary,
    understood,
)

SPACE = "\u2581"  # how SentencePiece writes a space

_KIND = "SentencePiece model"


class SentencePieceTokenizer:
    """LLaMA's tokenizer.model, with the ids of the original's MplugOwlTokenizer (pad is unk).

    Tokens that the files beside it add, or rename to begin or end a text, are read from there
    (text/special_tokens.py). They are cut out of a text first; each stretch between them is
    encoded by itself, with a dummy prefix of its own, as the slow tokenizer of 2023 does.
    """

    def __init__(self, path: str | Path) -> None:
        """Read the model file and what lies beside it.

        Raises UserError where one of them cannot be read, is no such file, or does not fit the
        others: ids that collide or leave a gap, an end token without id.
        """
        path = Path(path)
        processor = _sentencepiece(path)
        size: int = processor.get_piece_size()
        beside = read_special_tokens(path.parent, _json_tokens(path, size))
        check_settings(
            path, beside.unusual if _adds_space(processor) else beside.unusual - {ADDS_NO_SPACE}
        )
        _check_added(path, processor, beside.added)
        tokens = dict(beside.added)
        own = _own_roles(path, processor)
        for piece, id in own.values():
            tokens.setdefault(piece, AddedToken(piece, id))

        def id_of(content: str | None) -> int | None:
            if content in tokens:
                return tokens[content].id
            id = processor.piece_to_id(content or "")
            return None if id == processor.unk_id() else id

        check_needed(path, beside, id_of)
        eos_id = id_of(beside.eos or own.get("eos", (None,))[0])
        if eos_id is None:
            raise UserError(
                f"{path}: the SentencePiece model has no end-of-sentence piece (</s>), and no "
                f"eos_token is named in {CONFIG_FILE}"
            )
        bos_id = id_of(beside.bos or own.get("bos", (None,))[0])
        pad_id = id_of(beside.pad)
        self.bos_id: int | None = None if beside.no_bos else bos_id
        self.eos_id: int = eos_id
        self.pad_id: int = processor.unk_id() if pad_id is None else pad_id
        self.vocab_size: int = size + sum(token.id >= size for token in beside.added.values())
        for name in beside.special:
            if (found := id_of(name)) is not None:
                tokens.setdefault(name, AddedToken(name, found))
        hidden = {*(piece for piece, _ in own.values()), *beside.special}
        self._special = {t.id for t in tokens.values() if t.special or t.content in hidden}
        self._texts = {
            token.id: token.content
            for token in beside.added.values()
            if token.id >= size and token.id not in self._special
        }
        self._processor, self._num_pieces = processor, size
        self._tokens = Splitter(tokens)

    def encode(self, text: str) -> list[int]:
        """See Tokenizer. The text between two special strings is encoded as a piece of its own."""
        ids: list[int] = []
        for part in self._tokens.split(text):
            if isinstance(part, AddedToken):
                ids.append(part.id)
            else:
                ids.extend(self._processor.encode(part))
        return ids

    def decode(self, ids: Iterable[int]) -> str:
        """See Tokenizer. Bytes that are not UTF-8 come out as U+FFFD."""
        stretches: list[list[int]] = [[]]
        texts: list[str] = []
        for id in map(int, ids):
            if id in self._texts:
                texts.append(self._texts[id])
                stretches.append([])
            elif 0 <= id < self._num_pieces and id not in self._special:
                stretches[-1].append(id)
        words = [self._processor.decode(stretch) if stretch else "" for stretch in stretches]
        return words[0] + "".join(map(operator.add, texts, words[1:]))


def _sentencepiece(path: Path) -> sentencepiece.SentencePieceProcessor:
    data = read_file(path, _KIND)
    processor = sentencepiece.SentencePieceProcessor()
    with understood(path, _KIND):
        processor.LoadFromSerializedProto(data)
        processor.decode(processor.encode(PROBE))
    return processor


def _own_roles(
    path: Path, processor: sentencepiece.SentencePieceProcessor
) -> dict[str, tuple[str, int]]:
    """The pieces and ids that a model has for "unk", "bos" and "eos"."""
    ids = {"unk": processor.unk_id(), "bos": processor.bos_id(), "eos": processor.eos_id()}
    with understood(path, _KIND):
        return {role: (processor.id_to_piece(id), id) for role, id in ids.items() if id >= 0}


def _json_tokens(path: Path, num_pieces: int) -> Sequence[AddedToken]:
    """What a tokenizer.json beside a tokenizer.model adds to it, if it is the same tokenizer."""
    beside = path.with_name(JSON_FILE)
    if not is_there(beside):
        return ()
    vocabulary = read_json_vocabulary(beside)
    added = {token.content for token in vocabulary.added if token.id >= num_pieces}
    size = len(vocabulary.pieces - added)
    if size == num_pieces:
        return vocabulary.added
    logging.warning(
        "%s: %s (%d pieces) is used, %s (%d) beside it is not",
        path.parent,
        path.name,
        num_pieces,
        beside.name,
        size,
    )
    return ()


def _check_added(
    path: Path,
    processor: sentencepiece.SentencePieceProcessor,
    added: Mapping[str, AddedToken],
) -> None:
    """Raises UserError where added tokens collide with pieces or their ids leave a gap."""
    size = expected = processor.get_piece_size()
    for token in added.values():
        written = token.content.replace(" ", SPACE)
        own = processor.piece_to_id(written)
        is_piece = processor.id_to_piece(own) in (token.content, written)
        if token.id < size and (not is_piece or own != token.id):
            piece = shown(processor.id_to_piece(token.id))
            wrong = f", which is the piece {piece}; ids of added tokens begin at {size}"
        elif token.id >= size and is_piece:
            wrong = f", but is the piece {own} of {path.name}; give it that id"
        elif token.id >= size and token.id != expected:
            wrong = (
                f", and no token has the id {expected}; a file is missing, or they are not of one "
                "model"
            )
        elif token.single_word:
            wrong = " and single_word=true, which is not supported; set it to false"
        else:
            expected += token.id >= size
            continue
        where = f"{path.parent}: {shown(token.content)} of {token.source}"
        raise UserError(f"{where} has the id {token.id}{wrong}")


def _adds_space(processor: sentencepiece.SentencePieceProcessor) -> bool:
    """Whether a text gets a space put before it."""
    return "".join(processor.encode("a", out_type=str)).startswith(SPACE)
