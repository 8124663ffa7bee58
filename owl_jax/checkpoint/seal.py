"""The positions in the data of a checkpoint, each under its hash (sealed_json.py).

The arrays have their fingerprint, which is in meta. A position names that fingerprint, so that it
is never taken for one of another step or run. Checkpoints of older versions have no hashes and are
taken as they are.
"""

from __future__ import annotations

import json
from typing import Any

from owl_jax.sealed_json import Damaged, sealed, unsealed

# The keys of a sealed position.
_POSITION, _STATE = "position", "state"


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
