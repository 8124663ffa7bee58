"""Users' Python files: calls a function, such as a config's, reads objects, loads a module."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import runpy
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any, TypeVar

from owl_jax.errors import UserError

_T = TypeVar("_T")

_CONTENT = "__owl_jax_content__"  # in a module of `load_module`: the hash of its file


def call_in_file(path: str, function: str, argument: str, what: str) -> Any:
    """Runs the file `path` and calls its `function`, with `argument` unless that is "".

    what: the kind of file in messages, such as "config file". Returns None if the file does not
    define the function.

    Raises UserError, with the line of the file, for any exception of the file or the function.
    """
    with _explained(path, what):
        found = runpy.run_path(path).get(function)
        return found(*([argument] if argument else [])) if found else None


def load_module(path: str, what: str) -> ModuleType:
    """The file `path` as a module; the same module as before if the file has not changed.

    Its classes are found by name in sys.modules, as dataclasses need. what: as in `call_in_file`.
    Raises UserError for a file that cannot be read, and like `call_in_file`.
    """
    try:
        with open(path, "rb") as file:  # noqa: PTH123 - links stay
            content = hashlib.sha256(file.read()).hexdigest()
    except OSError as error:
        raise UserError(f"{what} {path}: {error.strerror}; expected a Python file") from None
    where = hashlib.sha256(os.fsencode(os.path.realpath(path))).hexdigest()
    name = f"owl_jax_file_{where[:16]}"
    known = sys.modules.get(name)
    if known is not None and vars(known).get(_CONTENT) == content:
        return known
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise UserError(f"{what} {path}: expected a Python file, with a name that ends in .py")
    module = importlib.util.module_from_spec(spec)
    vars(module)[_CONTENT] = content
    sys.modules[name] = module
    try:
        with _explained(path, what):
            spec.loader.exec_module(module)
    except BaseException:
        if known is None:
            del sys.modules[name]
        else:
            sys.modules[name] = known
        raise
    return module


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
            if frame.filename in (path, os.path.abspath(path))  # noqa: PTH100 - links stay
        ]
        where = f", line {inside[-1]}" if inside else ""
        raise UserError(f"{what} {path}{where}: {type(error).__name__}: {error}") from error
