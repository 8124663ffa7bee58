"""JSON objects with their own hash, so that a reader detects every change.

Objects of former versions have no hash; the caller decides whether to accept them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

HASH_KEY = "sha256"


class Damaged(Exception):
    """The object has changed since it was written."""


def sealed(values: Mapping[str, Any]) -> dict[str, Any]:
    """`values`, which must be JSON-serialisable, with their hash as the last key."""
    plain = json.loads(json.dumps(values))
    return {**plain, HASH_KEY: digest(plain)}


def unsealed(values: Any, name: str) -> tuple[dict[str, Any], bool]:
    """The values without the hash, and whether there was one; without a hash nothing is checked.

    Raises Damaged if the values do not match the hash. name: the object's name in the message.
    """
    if not isinstance(values, dict):
        raise Damaged(f"its {name} is not a JSON object")
    plain = {key: value for key, value in values.items() if key != HASH_KEY}
    if HASH_KEY not in values:
        return plain, False
    if values[HASH_KEY] != digest(plain):
        raise Damaged(f"its {name} is not what was written")
    return plain, True


def digest(values: Mapping[str, Any]) -> str:
    """The hash of JSON-serialisable values: the same before writing and after reading."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
