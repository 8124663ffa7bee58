"""JsonTokenizer: tokenizer.json (BLOOM) in the tokenizers library, and the files beside it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from pathlib import Path

import tokenizers

from owl_jax.errors import UserError, shown
from owl_jax.text.added_tokens import AddedToken
from owl_jax.text.special_tokens import (
    ADDS_EOS,
    CONFIG_FILE,
    SPLITS_SPECIAL,
    SpecialTokens,
    check_needed,
    check_settings,
    read_special_tokens,
)
from owl_jax.text.token_bytes import bytes_of_byte_level, bytes_of_piece
from owl_jax.text.tokenizer_files import (
    PROBE,
    damage_as_user_error,
    read_file,
    read_json_vocabulary,
)

_KIND = "tokenizers file"


class JsonTokenizer:
    """The tokenizer.json of BLOOM and other language models.

    BOS, EOS and padding are read from the files beside it; the defaults are <s>, </s> and <pad>.
    """

    def __init__(self, path: str | Path) -> None:
        """Reads the file and those beside it.

        Raises UserError if one of them cannot be read or contradicts the others, or if no file
        names the EOS token and the vocabulary lacks </s>.
        """
        path = Path(path)
        vocabulary = read_json_vocabulary(path)
        beside = read_special_tokens(path.parent, vocabulary.added)
        check_settings(path, beside.unusual & {ADDS_EOS, SPLITS_SPECIAL})
        with damage_as_user_error(path, _KIND):
            tokenizer = tokenizers.Tokenizer.from_buffer(read_file(path, _KIND))
            # A file may contain its author's padding and truncation settings.
            tokenizer.no_padding()
            tokenizer.no_truncation()
            # BPE dropout would split words at random.
            if getattr(tokenizer.model, "dropout", None):
                tokenizer.model.dropout = None
            _add(tokenizer, beside)
            tokenizer.decode(tokenizer.encode(PROBE, add_special_tokens=False).ids)
        for token in beside.added.values():
            if (found := tokenizer.token_to_id(token.content)) != token.id:
                raise UserError(
                    f"{path.parent}: {shown(token.content)} has the id {token.id} in "
                    f"{token.source}, but {found} in the vocabulary, whose ids are consecutive; "
                    "copy all tokenizer files from the same model"
                )
        check_needed(path, beside, tokenizer.token_to_id)
        eos_id = tokenizer.token_to_id(beside.eos or "</s>")
        if eos_id is None:
            raise UserError(
                f"{path}: no EOS token: the vocabulary has no </s>, and {CONFIG_FILE} names no "
                "eos_token"
            )
        bos_id = tokenizer.token_to_id(beside.bos or "<s>")
        pad_id = tokenizer.token_to_id(beside.pad or "<pad>")
        self._tokenizer = tokenizer
        self._is_byte_level = "ByteLevel" in repr(tokenizer.decoder)
        self.special_tokens: Mapping[int, str] = {
            id: token.content
            for id, token in tokenizer.get_added_tokens_decoder().items()
            if token.special
        }
        self.bos_id: int | None = None if beside.no_bos else bos_id
        self.adds_bos: bool = _adds_bos(tokenizer, self.bos_id, beside.adds_bos)
        self.eos_id: int = eos_id
        self.pad_id: int = eos_id if pad_id is None else pad_id
        self.vocab_size: int = max([vocabulary.size, *(t.id + 1 for t in beside.added.values())])

    def encode(self, text: str) -> list[int]:
        """See Tokenizer."""
        return self._tokenizer.encode(text, add_special_tokens=False).ids

    def decode(self, ids: Iterable[int]) -> str:
        """See Tokenizer."""
        kept = [int(i) for i in ids if 0 <= i < self.vocab_size]
        return self._tokenizer.decode(kept, skip_special_tokens=True)

    def token_id(self, text: str) -> int | None:
        """See Tokenizer."""
        id = self._tokenizer.token_to_id(text)
        return id if id is not None and self.encode(text) == [id] else None

    def token_bytes(self, id: int) -> bytes:
        """See Tokenizer."""
        piece = None if id < 0 or id in self.special_tokens else self._tokenizer.id_to_token(id)
        if piece is None:
            return b""
        return bytes_of_byte_level(piece) if self._is_byte_level else bytes_of_piece(piece)


def _adds_bos(tokenizer: tokenizers.Tokenizer, bos_id: int | None, setting: bool | None) -> bool:
    """Whether texts begin with BOS. setting: add_bos_token, which overrides the post-processor."""
    if bos_id is None or setting is not None:
        return bool(setting) and bos_id is not None
    return tokenizer.encode("", add_special_tokens=True).ids[:1] == [bos_id]


def _add(tokenizer: tokenizers.Tokenizer, beside: SpecialTokens) -> None:
    """Adds the tokens of the files beside it and marks as special those that decoding omits."""
    missing = [t for t in beside.added.values() if tokenizer.token_to_id(t.content) is None]
    tokenizer.add_tokens(list(map(_in_library, missing)))
    known = tokenizer.get_added_tokens_decoder()
    special = []
    for name in sorted(beside.special):
        id = tokenizer.token_to_id(name)
        if id is not None and not (id in known and known[id].special):
            token = beside.added.get(name, AddedToken(name, id, normalized=False))
            special.append(_in_library(dataclasses.replace(token, special=True)))
    tokenizer.add_special_tokens(special)


def _in_library(token: AddedToken) -> tokenizers.AddedToken:
    return tokenizers.AddedToken(
        token.content,
        single_word=token.single_word,
        lstrip=token.lstrip,
        rstrip=token.rstrip,
        normalized=token.normalized,
        special=token.special,
    )
