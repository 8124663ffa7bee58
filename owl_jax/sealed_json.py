"""A JSON object under its own hash, so that a reader notices every change.

What was written before there were hashes has none: the reader says whether it takes that.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

HASH_KEY = "sha256"


class Damaged(Exception):
    """It is not what was written; the message says what."""


def sealed(values: Mapping[str, Any]) -> dict[str, Any]:
    """`values`, anything that JSON can hold, with their hash as the last key."""
    plain = json.loads(json.dumps(values))
    return {**plain, HASH_KEY: digest(plain)}


def unsealed(values: Any, name: str) -> tuple[dict[str, Any], bool]:
    """What was sealed, and whether it was: without a hash nothing is checked.

    Raises Damaged for other values than were sealed; `name` is what the message calls them.
    """
    if not isinstance(values, dict):
        raise Damaged(f"its {name} is no JSON object")
    plain = {key: value for key, value in values.items() if key != HASH_KEY}
    if HASH_KEY not in values:
        return plain, False
    if values[HASH_KEY] != digest(plain):
        raise Damaged(f"its {name} is not what was written")
    return plain, True


def digest(values: Mapping[str, Any]) -> str:
    """The hash of what JSON can hold: the same before it is written and after it is read."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
