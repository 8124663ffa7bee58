"""Reads and checks tokenizer files; reports damage in one line."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import msgspec
import numpy as np

from owl_jax.errors import UserError, listed, shown
from owl_jax.files import GitPointer, open_regular
from owl_jax.text.added_tokens import AddedToken

JSON_FILE = "tokenizer.json"

# Tests a tokenizer: letters, digits, spaces, and characters that no vocabulary has.
PROBE = "An owl,  12\n\U00012000\U000f0000"

_MAX_FILE_BYTES = 1 << 28  # the largest released files are below 40 MiB
_MAX_ADDED_TOKENS = 1 << 17  # some released models add about ten thousand

TokenId = Annotated[int, msgspec.Meta(ge=0, lt=1 << 31)]


class TokenFields(msgspec.Struct):
    """An added token in a JSON file."""

    content: str
    special: bool = False
    lstrip: bool = False
    rstrip: bool = False
    single_word: bool = False
    normalized: bool = True

    def added(self, id: int, source: str) -> AddedToken:
        """The token as an AddedToken. source: the file that adds it."""
        return AddedToken(
            self.content,
            id,
            self.special,
            self.lstrip,
            self.rstrip,
            self.single_word,
            self.normalized,
            source,
        )


class _JsonToken(TokenFields, kw_only=True):
    id: TokenId


class _Model(msgspec.Struct):
    vocab: dict[str, TokenId] | list[tuple[str, float]]
    merges: msgspec.Raw = msgspec.Raw(b"[]")
    continuing_subword_prefix: str | None = None


class _JsonFile(msgspec.Struct):
    model: _Model
    added_tokens: list[_JsonToken] = []


@dataclass(frozen=True)
class JsonVocabulary:
    """The vocabulary of a tokenizer.json, read without the library. pieces: its model's."""

    pieces: Set[str]
    added: Sequence[AddedToken]
    size: int  # largest id + 1


def read_json_vocabulary(path: Path) -> JsonVocabulary:
    """The vocabulary of a tokenizer.json. Raises UserError for a damaged file."""
    file = _decoded(path)
    _check_prefix(path, file.model)
    pieces = file.model.vocab
    check_count(path, len(file.added_tokens))
    added = [token.added(token.id, JSON_FILE) for token in file.added_tokens]
    ids = np.arange(len(pieces))
    if isinstance(pieces, dict):
        ids = np.fromiter(pieces.values(), np.int64, len(pieces))
    size = max([int(ids.max(initial=-1)), *(token.id for token in added)]) + 1
    if size > 2 * (len(pieces) + len(added)):
        raise UserError(
            f"{path}: one of its {len(pieces) + len(added):,} tokens has the id {size - 1:,}; the "
            "file is damaged, copy it again"
        )
    uses = np.bincount(ids, minlength=1)
    if uses.max() > 1:
        same = [piece for piece, id in zip(pieces, ids, strict=True) if id == uses.argmax()]
        raise UserError(
            f"{path}: {listed(map(shown, same))} have the same id, {uses.argmax()}; the file is "
            "damaged, copy it again"
        )
    contents = pieces.keys() if isinstance(pieces, dict) else {piece for piece, _ in pieces}
    return JsonVocabulary(contents, added, size)


def _check_prefix(path: Path, model: _Model) -> None:
    """Raises UserError for a merge whose second piece lacks the prefix that merging cuts off.

    The library cuts as many bytes without looking, and ends the process if that splits a character.
    """
    prefix = model.continuing_subword_prefix
    if not prefix:
        return
    try:
        merges = msgspec.json.decode(model.merges, type=list[tuple[str, str] | str])
    except msgspec.MsgspecError:
        raise unreadable(path, "tokenizers file") from None
    seconds = (pair.partition(" ")[2] if isinstance(pair, str) else pair[1] for pair in merges)
    wrong = next((piece for piece in seconds if not piece.startswith(prefix)), None)
    if wrong is not None:
        found = f"a merge with {shown(wrong)}, which does not begin with it"
    elif merges and not prefix.isascii():
        found = "merges, which it would split inside of a character"
    else:
        return
    raise UserError(
        f"{path}: continuing_subword_prefix is {shown(prefix)}, but it has {found}; the file is "
        "damaged, copy it again"
    )


def check_count(path: Path, added: int) -> None:
    """Raises UserError for a file with an absurd number of added tokens."""
    if added > _MAX_ADDED_TOKENS:
        raise UserError(f"{path}: {added:,} added tokens; expected at most {_MAX_ADDED_TOKENS:,}")


def read_file(path: Path, kind: str) -> bytes:
    """The bytes of a tokenizer file. Raises UserError if it cannot be read."""
    try:
        with open_regular(path) as file:
            data = file.read(_MAX_FILE_BYTES + 1)
    except GitPointer as error:
        raise UserError(f"{path}: not a readable {kind}: it {error.strerror}") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    if len(data) > _MAX_FILE_BYTES:
        raise UserError(f"{path}: over {_MAX_FILE_BYTES >> 20} MiB; not a readable {kind}")
    return data


def unreadable(path: Path, kind: str) -> UserError:
    """The error for a tokenizer file that a library cannot parse."""
    return UserError(f"{path}: not a readable {kind}; an interrupted download? Copy the file again")


def is_there(path: Path) -> bool:
    """Whether a path exists, even as a broken link; False if permission is denied."""
    return os.path.lexists(path)


@contextmanager
def damage_as_user_error(path: Path, kind: str) -> Iterator[None]:
    """Turns any exception that a library raises on a damaged file into a one-line UserError."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit, MemoryError):
        raise
    # A Rust panic in tokenizers is not an Exception; SentencePiece's message may not be UTF-8.
    except BaseException as error:
        raise unreadable(path, kind) from error


def _decoded(path: Path) -> _JsonFile:
    try:
        return msgspec.json.decode(read_file(path, "tokenizers file"), type=_JsonFile)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        raise unreadable(path, "tokenizers file") from None
