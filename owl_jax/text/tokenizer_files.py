"""Tokenizer files as they lie in a directory: read, checked, their damage told in one line."""

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
from owl_jax.files import open_regular
from owl_jax.text.added_tokens import AddedToken

JSON_FILE = "tokenizer.json"

# What any text may hold: letters, digits, spaces, and characters that no vocabulary has.
PROBE = "An owl,  12\n\U00012000\U000f0000"

# Of a tokenizer file: the largest released ones are below 40 MiB.
_LARGEST_FILE = 1 << 28

# Of tokens added to a vocabulary: models with the most have some ten thousand.
_MOST_ADDED = 1 << 17

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
        """As what it is, with the file that says so."""
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


class _JsonFile(msgspec.Struct):
    model: _Model
    added_tokens: list[_JsonToken] = []


@dataclass(frozen=True)
class JsonVocabulary:
    """What a tokenizer.json holds, read without the library. pieces: those of its model."""

    pieces: Set[str]
    added: Sequence[AddedToken]
    size: int  # largest id + 1


def read_json_vocabulary(path: Path) -> JsonVocabulary:
    """The ids of a tokenizer.json. Raises UserError for a damaged file."""
    file = _decoded(path)
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


def check_count(path: Path, added: int) -> None:
    """Raises UserError for a file that adds more tokens than any vocabulary has use for."""
    if added > _MOST_ADDED:
        raise UserError(f"{path}: {added:,} added tokens; expected at most {_MOST_ADDED:,}")


def read_file(path: Path, kind: str) -> bytes:
    """The bytes of a tokenizer file. Raises UserError where it cannot be read."""
    try:
        with open_regular(path) as file:
            data = file.read(_LARGEST_FILE + 1)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    if len(data) > _LARGEST_FILE:
        raise UserError(f"{path}: over {_LARGEST_FILE >> 20} MiB; not a readable {kind}")
    return data


def unreadable(path: Path, kind: str) -> UserError:
    """For a tokenizer file that a library does not understand."""
    return UserError(
        f"{path}: not a readable {kind}; an interrupted download or a Git LFS pointer? "
        "Copy the file again"
    )


def is_there(path: Path) -> bool:
    """Whether a directory lists a name, whatever is behind it: also a link that leads nowhere."""
    return os.path.lexists(path)  # False also where the directory may not be looked into


@contextmanager
def understood(path: Path, kind: str) -> Iterator[None]:
    """One line for whatever a library says of a damaged file."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit, MemoryError):
        raise
    # A panic of tokenizers is no Exception; an error of SentencePiece may be no UTF-8.
    except BaseException as error:
        raise unreadable(path, kind) from error


def _decoded(path: Path) -> _JsonFile:
    try:
        return msgspec.json.decode(read_file(path, "tokenizers file"), type=_JsonFile)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        raise unreadable(path, "tokenizers file") from None
