"""Calls functions of users' Python files, such as configs, and reads the objects they define."""

from __future__ import annotations

import runpy
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from owl_jax.errors import UserError

_T = TypeVar("_T")


def call_in_file(path: str, function: str, argument: str, what: str) -> Any:
    """Runs the file `path` and calls its `function`, with `argument` unless that is "".

    what: the kind of file in messages, such as "config file". Returns None if the file does not
    define the function.

    Raises UserError, with the line of the file, for any exception of the file or the function.
    """
    with _explained(path, what):
        found = runpy.run_path(path).get(function)
        return found(*([argument] if argument else [])) if found else None


def objects_in_file(path: str, kind: type[_T], what: str) -> list[_T]:
    """Runs the file `path` and returns the objects of a class that it names, each once.

    Raises UserError as `call_in_file`, and for a missing file.
    """
    with _explained(path, what):
        found = [value for value in runpy.run_path(path).values() if isinstance(value, kind)]
        return list({id(value): value for value in found}.values())


@contextmanager
def _explained(path: str, what: str) -> Iterator[None]:
    """Turns any exception of a file into a UserError with its line."""
    try:
        yield
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
