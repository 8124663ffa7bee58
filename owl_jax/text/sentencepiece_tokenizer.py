"""SentencePieceTokenizer: LLaMA's tokenizer.model and the tokens added by other files beside it."""

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
from owl_jax.text.token_bytes import SPACE, bytes_of_piece
from owl_jax.text.tokenizer_files import (
    JSON_FILE,
    PROBE,
    damage_as_user_error,
    is_there,
    read_file,
    read_json_vocabulary,
)

_KIND = "SentencePiece model"


class SentencePieceTokenizer:
    """LLaMA's tokenizer.model, with the same ids as the original's MplugOwlTokenizer (pad is unk).

    The files beside it may add tokens and name another BOS, EOS or pad (text/special_tokens.py).
    A text is split at all these tokens. The parts between are encoded separately, each with a
    dummy prefix, as in transformers' slow tokenizer of 2023.
    """

    def __init__(self, path: str | Path) -> None:
        """Reads the model file and those beside it.

        Raises UserError if a file cannot be read or the files do not fit together: ids collide or
        leave a gap, or EOS has no id.
        """
        path = Path(path)
        processor = _sentencepiece(path)
        size: int = processor.get_piece_size()
        settings = read_special_tokens(path.parent, _json_tokens(path, size))
        check_settings(
            path, settings.unusual if _adds_space(processor) else settings.unusual - {ADDS_NO_SPACE}
        )
        _check_added(path, processor, settings.added)
        tokens = dict(settings.added)
        model_roles = _model_roles(path, processor)
        for piece, id in model_roles.values():
            tokens.setdefault(piece, AddedToken(piece, id))

        def id_of(content: str | None) -> int | None:
            if content in tokens:
                return tokens[content].id
            id = processor.piece_to_id(content or "")
            return None if id == processor.unk_id() else id

        check_needed(path, settings, id_of)
        eos_id = id_of(settings.eos or model_roles.get("eos", (None,))[0])
        if eos_id is None:
            raise UserError(
                f"{path}: no EOS token: the SentencePiece model has no </s>, and {CONFIG_FILE} "
                "names no eos_token"
            )
        bos_id = id_of(settings.bos or model_roles.get("bos", (None,))[0])
        pad_id = id_of(settings.pad)
        self.bos_id: int | None = None if settings.no_bos else bos_id
        self.eos_id: int = eos_id
        self.pad_id: int = processor.unk_id() if pad_id is None else pad_id
        self.vocab_size: int = size + sum(token.id >= size for token in settings.added.values())
        for name in settings.special:
            if (found := id_of(name)) is not None:
                tokens.setdefault(name, AddedToken(name, found))
        hidden = {*(piece for piece, _ in model_roles.values()), *settings.special}
        self._special = {t.id for t in tokens.values() if t.special or t.content in hidden}
        self._texts = {
            token.id: token.content
            for token in settings.added.values()
            if token.id >= size and token.id not in self._special
        }
        contents = {token.id: token.content for token in tokens.values()}
        self.special_tokens: Mapping[int, str] = {id: contents[id] for id in sorted(self._special)}
        self.adds_bos: bool = self.bos_id is not None and settings.adds_bos is not False
        self._processor, self._num_pieces = processor, size
        self._splitter = Splitter(tokens)

    def encode(self, text: str) -> list[int]:
        """See Tokenizer. Splits the text at added tokens and encodes each part separately."""
        ids: list[int] = []
        for part in self._splitter.split(text):
            if isinstance(part, AddedToken):
                ids.append(part.id)
            else:
                ids.extend(self._processor.encode(part))
        return ids

    def decode(self, ids: Iterable[int]) -> str:
        """See Tokenizer. Bytes that are not UTF-8 become U+FFFD."""
        runs: list[list[int]] = [[]]
        added: list[str] = []
        for id in map(int, ids):
            if id in self._texts:
                added.append(self._texts[id])
                runs.append([])
            elif 0 <= id < self._num_pieces and id not in self._special:
                runs[-1].append(id)
        decoded = [self._processor.decode(run) if run else "" for run in runs]
        return decoded[0] + "".join(map(operator.add, added, decoded[1:]))

    def token_id(self, text: str) -> int | None:
        """See Tokenizer."""
        ids = self.encode(text)
        # A piece may be encoded as two ids: the dummy prefix, then the piece.
        id = ids[-1] if ids else self._processor.unk_id()
        is_piece = id < self._num_pieces and self._processor.id_to_piece(id) == text
        added = self._splitter.token(text)
        return added.id if added else id if is_piece and id != self._processor.unk_id() else None

    def token_bytes(self, id: int) -> bytes:
        """See Tokenizer."""
        if id in self._texts:
            return self._texts[id].encode("utf-8", errors="replace")
        is_piece = 0 <= id < self._num_pieces and id not in self._special
        return bytes_of_piece(self._processor.id_to_piece(id)) if is_piece else b""


def _sentencepiece(path: Path) -> sentencepiece.SentencePieceProcessor:
    data = read_file(path, _KIND)
    processor = sentencepiece.SentencePieceProcessor()
    with damage_as_user_error(path, _KIND):
        processor.LoadFromSerializedProto(data)
        processor.decode(processor.encode(PROBE))
    return processor


def _model_roles(
    path: Path, processor: sentencepiece.SentencePieceProcessor
) -> dict[str, tuple[str, int]]:
    """The model's (piece, id) for "unk", "bos" and "eos"."""
    ids = {"unk": processor.unk_id(), "bos": processor.bos_id(), "eos": processor.eos_id()}
    with damage_as_user_error(path, _KIND):
        return {role: (processor.id_to_piece(id), id) for role, id in ids.items() if id >= 0}


def _json_tokens(path: Path, num_pieces: int) -> Sequence[AddedToken]:
    """The added tokens of a tokenizer.json beside tokenizer.model, if the piece counts agree."""
    json_file = path.with_name(JSON_FILE)
    if not is_there(json_file):
        return ()
    vocabulary = read_json_vocabulary(json_file)
    added = {token.content for token in vocabulary.added if token.id >= num_pieces}
    size = len(vocabulary.pieces - added)
    if size == num_pieces:
        return vocabulary.added
    logging.warning(
        "%s: using %s (%d pieces), ignoring %s (%d) beside it",
        path.parent,
        path.name,
        num_pieces,
        json_file.name,
        size,
    )
    return ()


def _check_added(
    path: Path,
    processor: sentencepiece.SentencePieceProcessor,
    added: Mapping[str, AddedToken],
) -> None:
    """Raises UserError if an added token collides with a piece, its id leaves a gap, or it is
    single_word."""
    size = expected = processor.get_piece_size()
    for token in added.values():
        written = token.content.replace(" ", SPACE)
        piece_id = processor.piece_to_id(written)
        is_piece = processor.id_to_piece(piece_id) in (token.content, written)
        if token.id < size and (not is_piece or piece_id != token.id):
            piece = shown(processor.id_to_piece(token.id))
            wrong = f", which is the piece {piece}; ids of added tokens begin at {size}"
        elif token.id >= size and is_piece:
            wrong = f", but is already piece {piece_id} of {path.name}; give it the id {piece_id}"
        elif token.id >= size and token.id != expected:
            wrong = (
                f", and no token has the id {expected}; a file is missing, or the files are from "
                "different models"
            )
        elif token.single_word:
            wrong = " and single_word=true, which is not supported; set it to false"
        else:
            expected += token.id >= size
            continue
        where = f"{path.parent}: {shown(token.content)} of {token.source}"
        raise UserError(f"{where} has the id {token.id}{wrong}")


def _adds_space(processor: sentencepiece.SentencePieceProcessor) -> bool:
    """Whether the model puts a space before a text."""
    return "".join(processor.encode("a", out_type=str)).startswith(SPACE)
