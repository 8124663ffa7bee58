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
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from owl_jax.errors import UserError
from owl_jax.files import GitPointer, check_regular, open_regular

_T = TypeVar("_T")

_CONTENT = "__owl_jax_content__"  # in a module of `load_module`: the hash of its file


def call_in_file(path: str, function: str, argument: str, what: str) -> Any:
    """Runs the file `path` and calls its `function`, with `argument` unless that is "".

    what: the kind of file in messages, such as "config file". Returns None if the file does not
    define the function.

    Raises UserError, with the line of the file, for any exception of the file or the function, and
    for a Git LFS pointer in its place.
    """
    _refuse_pointer(path, what)
    with explained(what, path):
        found = runpy.run_path(path).get(function)
        return found(*([argument] if argument else [])) if found else None


def load_module(path: str, what: str) -> ModuleType:
    """The file `path` as a module; the same module as before if the file has not changed.

    Its classes are found by name in sys.modules, as dataclasses need. what: as in `call_in_file`.
    Raises UserError for a file that cannot be read, and like `call_in_file`.
    """
    source = _content_of(path, what)
    content = hashlib.sha256(source).hexdigest()
    where = hashlib.sha256(os.fsencode(os.path.realpath(path))).hexdigest()
    name = f"owl_jax_file_{where[:16]}"
    known = sys.modules.get(name)
    if known is not None and vars(known).get(_CONTENT) == content:
        return known
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None:
        raise UserError(f"{what} {path}: expected a Python file, with a name that ends in .py")
    module = importlib.util.module_from_spec(spec)
    vars(module)[_CONTENT] = content
    sys.modules[name] = module
    try:
        with explained(what, path):
            # Not the spec's loader, which takes compiled code of the same second for the file's.
            exec(compile(source, path, "exec", dont_inherit=True), vars(module))
    except BaseException:
        if known is None:
            del sys.modules[name]
        else:
            sys.modules[name] = known
        raise
    return module


def objects_in_file(path: str, kind: type[_T], what: str) -> list[_T]:
    """Runs the file `path` and returns the objects of a class that it names, each once.

    Raises UserError for a file that cannot be read, and like `call_in_file`.
    """
    _content_of(path, what)
    with explained(what, path):
        found = [value for value in runpy.run_path(path).values() if isinstance(value, kind)]
        return list({id(value): value for value in found}.values())


def _refuse_pointer(path: str, what: str) -> None:
    """Raises UserError for a Git LFS pointer, not for what is no file: a pipe may be a config."""
    try:
        check_regular(path)
    except GitPointer as error:
        raise UserError(f"{what} {path}: {error.strerror}; expected a Python file") from None
    except OSError:
        return


def _content_of(path: str, what: str) -> bytes:
    try:
        with open_regular(Path(path)) as file:
            return file.read()
    except OSError as error:
        raise UserError(f"{what} {path}: {error.strerror}; expected a Python file") from None


@contextmanager
def explained(what: str, *paths: str) -> Iterator[None]:
    """Turns any exception of code in these files, and its sys.exit, into a UserError with its line.

    So are exceptions elsewhere, unless the system raised them, as for a full disk: what the files
    returned may have caused them. what: as in `call_in_file`.
    """
    try:
        yield
    except SyntaxError as error:
        raise UserError(f"{error.filename}, line {error.lineno}: {error.msg}") from error
    except UserError:
        raise
    except (Exception, SystemExit) as error:
        names = {os.path.abspath(path): path for path in paths}  # noqa: PTH100 - links stay
        inside = [
            f"{names[path]}, line {frame.lineno}"
            for frame in traceback.extract_tb(error.__traceback__)
            if (path := os.path.abspath(frame.filename)) in names  # noqa: PTH100
        ]
        if not inside and isinstance(error, OSError | MemoryError):
            raise
        where = inside[-1] if inside else paths[0]
        raise UserError(f"{what} {where}: {type(error).__name__}: {error}") from error
