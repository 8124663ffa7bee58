"""Number types with ranges, and `checked`, which validates values from files.

The ranges go far beyond any existing model. An absurd value gets a one-line error before anything
is computed or allocated.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Meta

from owl_jax.errors import listed, shown

Size = Annotated[int, Meta(ge=1, le=1 << 20)]  # a width
Pixels = Annotated[int, Meta(ge=1, le=1 << 14)]
Layers = Annotated[int, Meta(ge=1, le=1024)]
Heads = Annotated[int, Meta(ge=1, le=4096)]
Vocabulary = Annotated[int, Meta(ge=1, le=1 << 24)]
Length = Annotated[int, Meta(ge=1, le=1 << 24)]  # in tokens
QueryTokens = Annotated[int, Meta(ge=1, le=1 << 16)]
TokenId = Annotated[int, Meta(ge=0, lt=1 << 24)]
Rank = Annotated[int, Meta(ge=1, le=1 << 16)]
Epsilon = Annotated[float, Meta(gt=0, le=1)]  # of a norm
Theta = Annotated[float, Meta(ge=1, le=1e12)]  # base of rotary positions
Alpha = Annotated[float, Meta(gt=0, le=1e6)]
Dropout = Annotated[float, Meta(ge=0, lt=1)]
Channel = Annotated[float, Meta(ge=-10, le=10)]
ChannelScale = Annotated[float, Meta(gt=0, le=10)]
Channels = tuple[Channel, Channel, Channel]  # red, green, blue; of pixels from 0 to 1
ChannelScales = tuple[ChannelScale, ChannelScale, ChannelScale]
Deviation = Annotated[float, Meta(ge=0, le=100)]
Name = Annotated[str, Meta(min_length=1, max_length=500)]

_T = TypeVar("_T")

_STEP = re.compile(r"\.([^.\[\]]+)|\[(\d+|\.\.\.)\]")


def checked(values: Any, kind: type[_T], where: str = "") -> _T:
    """Converts JSON `values` to `kind`, a dataclass or a msgspec Struct of the types above.

    where: the key of `values`, for messages ("vision").

    The only type converted is integer, to float. A dataclass refuses unknown keys; a Struct does so
    if it sets `forbid_unknown_fields`. Raises TypeError with one line: the key, what was found and
    what was expected.
    """
    if dataclasses.is_dataclass(kind) and isinstance(values, dict):
        known = {field.name for field in dataclasses.fields(kind)}
        if unknown := sorted(map(str, values.keys() - known)):
            names = listed(shown(_joined(where, name)) for name in unknown)
            raise TypeError(f"unknown key {names}")
    try:
        return msgspec.convert(values, kind)
    except msgspec.ValidationError as error:
        raise TypeError(_explained(str(error), values, kind, where)) from None


def _explained(message: str, values: Any, kind: Any, where: str) -> str:
    message, _, path = message.partition(" - at `$")
    found, steps = values, []
    for match in _STEP.finditer(path.removesuffix("`")):
        name, index = match.groups()
        if index == "...":  # a value of a dict or an item of a set; msgspec does not say which one
            break
        found = found[name] if name else found[int(index)]
        steps.append(name or f"[{index}]")
    key = _joined(where, *steps)
    if required := re.fullmatch(r"Object missing required field `(.*)`", message):
        return f"no value for {shown(_joined(key, required[1]))}"
    if unknown := re.fullmatch(r"Object contains unknown field `(.*)`", message):
        return f"unknown key {shown(_joined(key, unknown[1]))}"
    if message.startswith("Invalid enum value") and (choices := _choices(kind, steps)):
        return f"{key} is {shown(found)}; expected {listed(map(str, choices))}"
    expected = message.partition(", got ")[0].replace("`", "")
    expected = expected.replace("Expected", "expected").replace("Number out", "number out")
    for name, word in (("object", "a JSON object"), ("array", "a list"), ("str", "a string")):
        expected = re.sub(rf"\b{name}\b", word, expected)
    return f"{key or 'it'} is {shown(found)}; {expected}"


def _choices(kind: Any, steps: Sequence[str]) -> tuple[Any, ...]:
    """The values of a Literal at the key `steps` of `kind`; () if that is none."""
    for step in steps:
        kind = get_type_hints(kind).get(step) if isinstance(kind, type) else None
    return get_args(kind) if get_origin(kind) is Literal else ()


def _joined(*names: str) -> str:
    return ".".join(filter(None, names)).replace(".[", "[")
