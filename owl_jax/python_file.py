"""Calls a function of a user's Python file: a config or a custom source."""

from __future__ import annotations

import runpy
import traceback
from typing import Any

from owl_jax.errors import UserError


def call_in_file(path: str, function: str, argument: str, what: str) -> Any:
    """Runs the file `path` and calls its `function`, with `argument` unless that is "".

    what: the kind of file in messages, such as "config file". Returns None if the file does not
    define the function.

    Raises UserError, with the line of the file, for any exception of the file or the function.
    """
    try:
        found = runpy.run_path(path).get(function)
        return found(*([argument] if argument else [])) if found else None
    except SyntaxError as error:
        raise UserError(f"{error.filename}, line {error.lineno}: {error.msg}") from error
    except UserError:
        raise
    except Exception as error:
        inside = [
            frame.lineno
            for frame in traceback.extract_tb(error.__traceback__)
            if frame.filename == path
        ]
        where = f", line {inside[-1]}" if inside else ""
        raise UserError(f"{what} {path}{where}: {type(error).__name__}: {error}") from error
