"""Standard input and output of a command: whatever they are, and whenever they go away.

A terminal may be Latin-1, a pipe may be closed by `head`, a stream may not be there at all (`>&-`).
None of that is a fault of the command's user, and none of it ends in a traceback.
"""

from __future__ import annotations

import io
import os
import select
import sys
from typing import TextIO

from owl_jax.errors import printable

# What a shell reports of a program that SIGPIPE ended, as `yes | head -1` is.
PIPE_STATUS = 141


def prepare() -> None:
    """Makes all three streams usable.

    A character that a stream's encoding has not is written as an escape, a byte of the input that
    is not its encoding is read as U+FFFD. A closed stream is replaced by the null device, and so is
    its descriptor, which the next file would get otherwise.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            null = os.open(os.devnull, os.O_RDWR)
            if null != descriptor:
                os.dup2(null, descriptor)
                os.close(null)
    for name, mode, errors in (
        ("stdin", "r", "replace"),
        ("stdout", "w", "backslashreplace"),
        ("stderr", "w", "backslashreplace"),
    ):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: PTH123, SIM115
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=errors)


def say(text: object = "", *, end: str = "\n", stream: TextIO | None = None) -> None:
    """Prints text of several lines at once; what would steer the terminal is escaped."""
    print(printable(str(text), keep="\n\t"), end=end, file=stream or sys.stdout, flush=True)


def is_gone(stream: TextIO) -> bool:
    """Whether nobody can read any more what is written to `stream`: its pipe is closed."""
    try:
        waiting = select.poll()
        waiting.register(stream, 0)
        return any(event & select.POLLERR for _, event in waiting.poll(0))
    except (OSError, ValueError):  # no descriptor
        return False


def flush(stream: TextIO) -> OSError | None:
    """Writes what is buffered; what went wrong, if anything did.

    After an error the rest goes to the null device: Python would try again at its end, and print a
    traceback.
    """
    try:
        stream.flush()
    except OSError as error:
        abandon(stream)
        return error
    return None


def abandon(stream: TextIO) -> None:
    """From here on the null device gets what is written to `stream`."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, stream.fileno())
    os.close(null)
