"""config.json of Hugging Face as parts read it: types, ranges, other names, what is refused.

A Struct lists the keys that a part reads. Defaults are those of the classes that write the files,
since transformers 4 omits what is equal to them. A null is a value, not a missing key.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar

from msgspec import Meta

from owl_jax.errors import UserError, listed, shown
from owl_jax.models.bounds import TokenId, checked

_T = TypeVar("_T")

Ids = Annotated[list[TokenId], Meta(min_length=1, max_length=100)]
Padding = Annotated[int, Meta(ge=-1, lt=1 << 24)]  # -1: none

# Keys that change what a model computes to something that is not computed here. Their plain value
# is null, false, 0 or empty.
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
    """A JSON object of a file, or one of its sections.

    path: the file, for messages. values: the object. where: its key in the file; "" for the whole.
    """

    path: Path
    values: Mapping[str, Any]
    where: str = ""

    def key(self, name: str) -> str:
        """The full key of one of its values."""
        return f"{self.where}.{name}" if self.where else name

    def section(self, name: str) -> Source:
        """The object under a key; empty if there is none. Raises UserError for something else."""
        found = self.values.get(name)
        if found is None:
            found = {}
        if not isinstance(found, dict):
            raise UserError(f"{self.path}: {name} is {shown(found)}; expected a JSON object")
        return Source(self.path, found, self.key(name))

    def with_values(self, values: Mapping[str, Any]) -> Source:
        """The same place with other values."""
        return Source(self.path, values, self.where)

    def renamed(self, names: Mapping[str, str]) -> Source:
        """Other names of keys replaced. Raises UserError where two names disagree."""
        result = dict(self.values)
        for other, name in names.items():
            value = result.pop(other, None)
            if value is None:
                continue
            if result.get(name) is None:
                result[name] = value
            elif result[name] != value:
                raise UserError(
                    f"{self.path}: {name} is {shown(result[name])} and {other} is {shown(value)}; "
                    "they are two names of one size"
                )
        return self.with_values(result)

    def read(self, kind: type[_T]) -> _T:
        """The values as a `kind`. Raises UserError that names file, key and value."""
        try:
            return checked(self.values, kind, self.where)
        except TypeError as error:
            raise UserError(f"{self.path}: {error}") from None

    def refuse_other_computation(self) -> None:
        """Raises UserError that lists the keys that ask for what is not computed here."""
        values = self.values
        asked = [name for name in _OTHER_COMPUTATION if values.get(name)]
        # False where a model is what it says; use_sliding_window false switches the other off.
        if values.get("use_sliding_window") is False:
            asked = [name for name in asked if name != "sliding_window"]
        if asked:
            found = listed(f"{self.key(name)} = {shown(values[name])}" for name in asked)
            raise UserError(
                f"{self.path}: {found}: not computed here; expected a model without (false or null)"
            )

    def expect(self, name: str, found: Any, expected: Any, why: str) -> None:
        """Raises UserError unless a value is the only one that is computed here."""
        if found != expected:
            raise UserError(f"{self.path}: {name} {shown(found)}; {why} has {expected}")


def token_ids(text: Any) -> dict[str, Any]:
    """The special ids that a language model's Struct gives; null and -1 are left out."""
    ids: dict[str, Any] = {}
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        value = getattr(text, name)
        if isinstance(value, list):  # any of them ends a text; the first is the usual one
            value = value[0]
        if value is not None and value >= 0:
            ids[name] = value
    return ids
