"""Errors of one process as errors of all, so that none of them waits for one that has ended."""

from __future__ import annotations

import jax
import numpy as np
from jax.experimental.multihost_utils import process_allgather

from owl_jax.errors import UserError


def raise_together(error: UserError | None, told: str) -> None:
    """Raises on every process if any of them has an error; every process calls it.

    Args:
      error: this process's, if it has one.
      told: the message on processes without one; {process} in it becomes the number of the first
        process that has one.

    Raises UserError.
    """
    if jax.process_count() > 1:
        failed = process_allgather(np.array([error is not None])).ravel()
        if failed.any() and error is None:
            error = UserError(told.replace("{process}", str(int(failed.argmax()))))
    if error is not None:
        raise error
