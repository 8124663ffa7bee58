"""Defaults of arguments and flags, and checks of their values."""

from __future__ import annotations

import operator
from typing import Any

import numpy as np

from owl_jax.errors import UserError, shown

DTYPES = ("bfloat16", "float32", "int8")  # of weights
CACHE_DTYPES = ("auto", "int8")  # of cached keys and values; "auto": that of the computation
MAX_NEW_TOKENS = 256
NUM_FRAMES = 4  # of a video, as in the video release's examples


def whole_number(value: Any, name: str, least: int, most: int | None = None) -> int:
    """`value` as an int: Python's, NumPy's, or a scalar integer array.

    Raises UserError for anything else, including True and 2.0, and for a number outside
    `least` .. `most`.
    """
    if _is_bool(value):
        raise UserError(f"{name} is {shown(value)}; expected a whole number")
    try:
        number = operator.index(value)
    except TypeError:
        raise UserError(
            f"{name} is {shown(value)} ({type(value).__name__}); expected a whole number"
        ) from None
    if number < least:
        raise UserError(f"{name} is {_digits(number)}; expected at least {least}")
    if most is not None and number > most:
        raise UserError(f"{name} is {_digits(number)}; expected at most {most:,}")
    return number


def real_number(value: Any, name: str, expected: str) -> float:
    """`value` as a float. Raises UserError for anything but a number; nan and infinity pass.

    expected: description of the valid range, for the message.
    """
    if _is_bool(value) or isinstance(value, str | bytes) or np.ndim(value):
        raise UserError(f"{name} is {shown(value)}; expected {expected}")
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        found = _digits(value) if isinstance(value, int) else shown(value)
        raise UserError(f"{name} is {found}; expected {expected}") from None


def boolean(value: Any, name: str) -> bool:
    """`value` as a bool. Raises UserError for anything but True or False."""
    if isinstance(value, bool | np.bool_):
        return bool(value)
    raise UserError(f"{name} is {shown(value)}; expected True or False")


def _is_bool(value: Any) -> bool:
    return isinstance(value, bool) or getattr(value, "dtype", None) == np.bool_


def _digits(number: int) -> str:
    # Python refuses to format numbers of thousands of digits.
    bits = number.bit_length()
    return str(number) if bits < 128 else f"a number of {bits} bits"
