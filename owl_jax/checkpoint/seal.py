"""A checkpoint's positions in the data, each sealed with a hash (sealed_json.py).

A position records the tree hash of the checkpoint's arrays, so it is never mistaken for one of
another step or run. Checkpoints of older versions have no hashes and are accepted unchecked.
"""

from __future__ import annotations

import json
from typing import Any

from owl_jax.sealed_json import Damaged, sealed, unsealed

# The keys of a sealed position.
_POSITION, _STATE = "position", "state"


class Position:
    """A position in the data for Grain's checkpoint handler, which saves `get_state`'s bytes.

    state: the tree hash of the checkpoint's arrays.
    """

    def __init__(self, position: Any, state: str) -> None:
        self._values = sealed({_POSITION: position, _STATE: state})

    def get_state(self) -> bytes:
        return json.dumps(self._values, indent=4).encode()


def position_of(data: bytes, state: str | None, must_be_sealed: bool) -> Any:
    """Reads the position in the data from a file's bytes.

    Args:
      state: the expected tree hash of the arrays; None if unknown.
      must_be_sealed: refuse a position without a hash, which older versions wrote.

    Raises Damaged if the position has changed or belongs to another checkpoint.
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
