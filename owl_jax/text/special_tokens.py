"""Reads added tokens, token roles and settings from the files beside a tokenizer.

    tokenizer_config.json    added_tokens_decoder; bos_token, eos_token, ...; settings
    added_tokens.json        {"<|im_end|>": 32000}
    special_tokens_map.json  bos_token, eos_token, ..., each a string or an object with "content"
    tokenizer.json           added_tokens

The formats are those of transformers from 2023 until today. Files that disagree about a token's id,
or about which token is BOS or EOS, are refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from owl_jax.errors import UserError, listed, one_line, shown
from owl_jax.files import read_json
from owl_jax.text.added_tokens import AddedToken
from owl_jax.text.tokenizer_files import TokenFields, TokenId, check_count, is_there

CONFIG_FILE = "tokenizer_config.json"
ADDED_FILE = "added_tokens.json"
MAP_FILE = "special_tokens_map.json"

# Settings that change a text's ids, as written in `SpecialTokens.unusual`.
ADDS_EOS = "add_eos_token=true"
ADDS_NO_SPACE = "add_prefix_space=false"
SPLITS_SPECIAL = "split_special_tokens=true"

_Struct = TypeVar("_Struct")


@dataclass(frozen=True)
class SpecialTokens:
    """The contents of the files beside a tokenizer.

    added: tokens by content, in order of id. bos, eos, pad: contents; None if no file names one.
    special: contents of all tokens with a role. needed: contents of those that must have an id.
    no_bos: the model has no BOS. adds_bos: add_bos_token, or None if no file sets it.
    unusual: settings of tokenizer_config.json that would change ids.
    """

    added: Mapping[str, AddedToken]
    bos: str | None
    eos: str | None
    pad: str | None
    special: frozenset[str]
    needed: frozenset[str]
    no_bos: bool
    adds_bos: bool | None
    unusual: frozenset[str]


_Name = str | TokenFields


class _Roles(msgspec.Struct, kw_only=True):
    bos_token: _Name | msgspec.UnsetType | None = msgspec.UNSET
    eos_token: _Name | None = None
    pad_token: _Name | None = None
    unk_token: _Name | None = None
    additional_special_tokens: list[_Name] | None = None
    extra_special_tokens: list[_Name] | dict[str, _Name] | None = None


class _Config(_Roles, kw_only=True):
    added_tokens_decoder: dict[TokenId, TokenFields] | None = None
    add_bos_token: bool | None = None
    add_eos_token: bool | None = None
    add_prefix_space: bool | None = None
    do_lower_case: bool | None = None
    split_special_tokens: bool | None = None
    sp_model_kwargs: dict[str, Any] | None = None


def read_special_tokens(directory: Path, from_json: Iterable[AddedToken] = ()) -> SpecialTokens:
    """Reads the files in `directory`; each is optional.

    from_json: the added tokens of a tokenizer.json; the other files take precedence.

    Raises UserError for a file that cannot be read or has values of the wrong type, and for files
    that contradict each other.
    """
    config = _read(directory / CONFIG_FILE, _Config) or _Config()
    roles = _read(directory / MAP_FILE, _Roles) or _Roles()
    special = frozenset({*_contents(config), *_contents(roles)})
    for name in special:
        if not _is_unicode(name):
            raise UserError(f"{directory}: the special token {shown(name)} is not valid Unicode")
    from_config = config.added_tokens_decoder or {}
    from_added = _read(directory / ADDED_FILE, dict[str, TokenId]) or {}
    check_count(directory / CONFIG_FILE, len(from_config))
    check_count(directory / ADDED_FILE, len(from_added))
    tokens = [token.added(id, CONFIG_FILE) for id, token in from_config.items()]
    for content, id in from_added.items():
        tokens.append(AddedToken(content, id, normalized=content not in special, source=ADDED_FILE))
    bos = _role(directory, config, roles, "bos_token")
    eos = _role(directory, config, roles, "eos_token")
    return SpecialTokens(
        added=_merged(directory, [*tokens, *from_json]),
        bos=bos,
        eos=eos,
        # Padding is never trained on or generated, so files may disagree about it.
        pad=_text(config.pad_token) or _text(roles.pad_token),
        special=special,
        # Not pad: some directories name one that has no id; transformers gives it the next id.
        needed=frozenset(filter(None, (bos, eos, *_more(config), *_more(roles)))),
        no_bos=config.bos_token is None and bos is None,
        # Says whether the tokenizer or its caller adds BOS; in the Owl format, the caller does.
        adds_bos=config.add_bos_token,
        unusual=frozenset(_unusual(config)),
    )


def check_settings(path: Path, unusual: Set[str]) -> None:
    """Raises UserError for `unusual` settings, which the tokenizer at `path` does not support."""
    if unusual:
        raise UserError(
            f"{path.with_name(CONFIG_FILE)}: {listed(sorted(unusual))} would change token ids and "
            "is not supported; remove it if the model was trained without it"
        )


def check_needed(path: Path, beside: SpecialTokens, id_of: Callable[[str], int | None]) -> None:
    """Raises UserError if a token with a role has no id in the tokenizer at `path`."""
    for name in sorted(beside.needed):
        if id_of(name) is None:
            raise UserError(
                f"{path.parent}: the special token {shown(name)} has no id: it is neither in "
                f"{path.name} nor added in {CONFIG_FILE} or {ADDED_FILE}"
            )


def _read(path: Path, form: type[_Struct]) -> _Struct | None:
    """A JSON file, converted to `form`; None if the file is missing."""
    if not is_there(path):
        return None
    values = read_json(path)
    try:
        return msgspec.convert(values, form, str_keys=True)
    # A lone surrogate raises ValueError, not ValidationError.
    except ValueError as error:
        raise UserError(
            f"{path}: {one_line(error)}; fix the value or copy the file again"
        ) from None


def _merged(directory: Path, tokens: Iterable[AddedToken]) -> dict[str, AddedToken]:
    """Tokens by content, in order of id; earlier files take precedence."""
    by_content: dict[str, AddedToken] = {}
    by_id: dict[int, AddedToken] = {}
    for token in tokens:
        if not token.content or not _is_unicode(token.content):
            raise UserError(
                f"{directory / token.source}: the added token with id {token.id} is "
                f"{shown(token.content)}; expected nonempty, valid Unicode text"
            )
        known = by_content.setdefault(token.content, token)
        if known.id != token.id:
            raise UserError(
                f"{directory}: {shown(token.content)} has the id {known.id} in {known.source} and "
                f"{token.id} in {token.source}; make the files agree"
            )
        other = by_id.setdefault(token.id, token)
        if other.content != token.content:
            raise UserError(
                f"{directory}: the id {token.id} is {shown(other.content)} in {other.source} and "
                f"{shown(token.content)} in {token.source}; each token needs its own id"
            )
    return {by_id[id].content: by_content[by_id[id].content] for id in sorted(by_id)}


def _role(directory: Path, config: _Config, roles: _Roles, name: str) -> str | None:
    """The content of BOS or EOS. name: its key."""
    first, second = _text(getattr(config, name)), _text(getattr(roles, name))
    if first and second and first != second:
        raise UserError(
            f"{directory}: {name} is {shown(first)} in {CONFIG_FILE} and {shown(second)} in "
            f"{MAP_FILE}; make the files agree"
        )
    return first or second


def _text(name: Any) -> str | None:
    """A token's content, or None; old files write "" for a missing token."""
    content = name.content if isinstance(name, TokenFields) else name
    return content if isinstance(content, str) and content else None


def _contents(roles: _Roles) -> Iterator[str]:
    """The contents of all tokens with a role."""
    names = (roles.bos_token, roles.eos_token, roles.pad_token, roles.unk_token)
    yield from filter(None, map(_text, names))
    yield from _more(roles)


def _more(roles: _Roles) -> Iterator[str]:
    """The contents of the additional special tokens."""
    for more in (roles.additional_special_tokens, roles.extra_special_tokens):
        yield from filter(None, map(_text, more.values() if isinstance(more, dict) else more or ()))


def _unusual(config: _Config) -> Iterator[str]:
    if config.add_eos_token:
        yield ADDS_EOS
    if config.split_special_tokens:
        yield SPLITS_SPECIAL
    if config.do_lower_case:
        yield "do_lower_case=true"
    if config.add_prefix_space is False:
        yield ADDS_NO_SPACE
    if config.sp_model_kwargs:
        yield f"sp_model_kwargs={shown(config.sp_model_kwargs)}"


def _is_unicode(text: str) -> bool:
    """False for a lone surrogate, which JSON can express and no tokenizer accepts."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
