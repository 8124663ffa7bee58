"""Raises an error of one process in all, so that none waits for a process that has ended."""

from __future__ import annotations

import jax
import numpy as np
from jax.experimental.multihost_utils import process_allgather

from owl_jax.errors import UserError


def raise_together(error: UserError | None, message: str) -> None:
    """Raises in every process if any of them has an error. Every process must call it.

    Args:
      error: this process's error, or None.
      message: the message in processes without an error; {process} in it becomes the number of the
        first process with one.

    Raises UserError.
    """
    if jax.process_count() > 1:
        failed = process_allgather(np.array([error is not None])).ravel()
        if failed.any() and error is None:
            error = UserError(message.replace("{process}", str(int(failed.argmax()))))
    if error is not None:
        raise error
