"""Reads sections of Hugging Face's config.json: types, ranges, aliases, unsupported keys.

A Struct lists the keys that a part reads. Its defaults are those of transformers' config classes,
because transformers 4 omits values equal to them. A null is a value, not a missing key.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar

from msgspec import Meta

from owl_jax.errors import UserError, listed, shown
from owl_jax.models.bounds import TokenId, checked

_T = TypeVar("_T")

Ids = Annotated[list[TokenId], Meta(min_length=1, max_length=100)]
Padding = Annotated[int, Meta(ge=-1, lt=1 << 24)]  # -1: none

# Keys for variants that owl_jax does not compute; null, false, 0 or empty turns them off.
_OTHER_COMPUTATION = (
    "alibi",
    "attention_bias",
    "mlp_bias",
    "quantization_config",
    "qk_layernorm",
    "use_qk_norm",
    "sliding_window",
    "use_sliding_window",
    "apply_residual_connection_post_layernorm",
    "num_local_experts",
    "parallel_attn",
    "use_parallel_residual",
    "add_cross_attention",
    "is_encoder_decoder",
    "pruned_heads",
)


@dataclass(frozen=True)
class Source:
    """A JSON file's object, or one of its sections.

    path: the file, for messages. values: the object. where: the section's key; "" for the whole.
    """

    path: Path
    values: Mapping[str, Any]
    where: str = ""

    def key(self, name: str) -> str:
        """The full key of one of the values, including the section."""
        return f"{self.where}.{name}" if self.where else name

    def section(self, name: str) -> Source:
        """The object under a key; empty if it is missing. Raises UserError for another type."""
        found = self.values.get(name)
        if found is None:
            found = {}
        if not isinstance(found, dict):
            raise UserError(f"{self.path}: {name} is {shown(found)}; expected a JSON object")
        return Source(self.path, found, self.key(name))

    def with_values(self, values: Mapping[str, Any]) -> Source:
        """The same section with other values."""
        return Source(self.path, values, self.where)

    def renamed(self, names: Mapping[str, str]) -> Source:
        """Replaces aliases, {alias: key}. Raises UserError where alias and key disagree."""
        result = dict(self.values)
        for alias, name in names.items():
            value = result.pop(alias, None)
            if value is None:
                continue
            if result.get(name) is None:
                result[name] = value
            elif result[name] != value:
                raise UserError(
                    f"{self.path}: {name} is {shown(result[name])} and {alias} is {shown(value)}; "
                    "both name the same size and must agree"
                )
        return self.with_values(result)

    def read(self, kind: type[_T]) -> _T:
        """The values as a `kind`. Raises UserError with the file, key and value."""
        try:
            return checked(self.values, kind, self.where)
        except TypeError as error:
            raise UserError(f"{self.path}: {error}") from None

    def refuse_other_computation(self, read: Collection[str] = ()) -> None:
        """Raises UserError for keys that turn on a variant that owl_jax does not compute.

        read: keys that the part reads itself.
        """
        values = self.values
        unsupported = [name for name in _OTHER_COMPUTATION if values.get(name) and name not in read]
        # sliding_window has no effect if use_sliding_window is false.
        if values.get("use_sliding_window") is False:
            unsupported = [name for name in unsupported if name != "sliding_window"]
        if unsupported:
            found = listed(f"{self.key(name)} = {shown(values[name])}" for name in unsupported)
            raise UserError(f"{self.path}: {found}: not supported; expected false or null")

    def expect(self, name: str, found: Any, expected: Any, owner: str) -> None:
        """Raises UserError unless `found` is the only value that `owner` supports."""
        if found != expected:
            raise UserError(f"{self.path}: {name} is {shown(found)}; {owner} has {expected}")


SPECIAL_IDS = ("bos_token_id", "eos_token_id", "pad_token_id")


def special_ids_of(llm: Any) -> dict[str, int]:
    """The special ids of a language model's config, by their keys in config.json."""
    return {name: getattr(llm, name) for name in SPECIAL_IDS}


def token_ids(text: Any) -> dict[str, Any]:
    """The special ids in a language model's Struct, without null and -1."""
    ids: dict[str, Any] = {}
    for name in SPECIAL_IDS:
        value = getattr(text, name)
        if isinstance(value, list):  # each of them ends a text; keep the first
            value = value[0]
        if value is not None and value >= 0:
            ids[name] = value
    return ids
