"""What of a checkpoint is JSON, under its hash: its meta, and each process's position in the data.

The arrays have their fingerprint, which is in meta. A position names that fingerprint, so that it
is never taken for one of another step or run. Checkpoints of older versions have no hashes and are
taken as they are.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

_HASH = "sha256"

# The keys of a sealed position.
_POSITION, _STATE = "position", "state"


class Damaged(Exception):
    """It is not what was written; the message says what."""


def sealed(values: Mapping[str, Any]) -> dict[str, Any]:
    """`values`, anything that JSON can hold, with their hash."""
    plain = json.loads(json.dumps(values))
    return {**plain, _HASH: digest(plain)}


def unsealed(values: Any, name: str) -> tuple[dict[str, Any], bool]:
    """What was sealed, and whether it was: without a hash nothing is checked.

    Raises Damaged for other values than were sealed; `name` is what the message calls them.
    """
    if not isinstance(values, dict):
        raise Damaged(f"its {name} is no JSON object")
    plain = {key: value for key, value in values.items() if key != _HASH}
    if _HASH not in values:
        return plain, False
    if values[_HASH] != digest(plain):
        raise Damaged(f"its {name} is not what was written")
    return plain, True


class Position:
    """A position in the data as Grain's handler takes it: bytes, sealed, of one state."""

    def __init__(self, position: Any, state: str) -> None:
        self._values = sealed({_POSITION: position, _STATE: state})

    def get_state(self) -> bytes:
        return json.dumps(self._values, indent=4).encode()


def position_of(data: bytes, state: str | None, must_be_sealed: bool) -> Any:
    """The position in the data that a file holds.

    Args:
      state: the fingerprint of the arrays that it has to belong to; None: not known.
      must_be_sealed: whether it cannot be of an older version.

    Raises Damaged where it is another than was written, or of another checkpoint.
    """
    name = "position in the data"
    values, is_sealed = unsealed(json.loads(data), name)
    if not is_sealed:
        if must_be_sealed or values.keys() == {_POSITION, _STATE}:
            raise Damaged(f"its {name} is not what was written")
        return values
    if state is not None and values.get(_STATE) != state:
        raise Damaged(f"its {name} is of another checkpoint")
    return values.get(_POSITION)


def digest(values: Mapping[str, Any]) -> str:
    """The hash of what JSON can hold: the same before it is written and after it is read."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
