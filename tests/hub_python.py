"""Code in a process that uses the tests' hub: huggingface_hub reads its variables when imported."""

from __future__ import annotations

import textwrap
from pathlib import Path

import forked
from hub_server import Hub

_PRELUDE = """
import os
import sys
from owl_jax.checkpoint.hub_directory import model_directory, tokenizer_directory
from owl_jax.errors import UserError

def files(directory):
    found = [path for path in directory.rglob("*") if path.is_file()]
    return " ".join(sorted(path.relative_to(directory).as_posix() for path in found))

def attempt(*arguments, get=model_directory, show=files, **others):
    # What a user sees: the result or the error, in one line.
    try:
        print(show(get(*arguments, **others)))
    except UserError as error:
        print(error)

"""


def run(hub: Hub, home: Path, code: str, **environment: str) -> list[str]:
    """Runs the code with a cache in `home`, which is the working directory too.

    Returns the lines of its output. It says nothing else.
    """
    variables = hub.environment(home, **environment)
    result = forked.run(*arguments(code), environment=variables, directory=home)
    assert (result.returncode, result.stderr) == (0, "")
    return result.stdout.splitlines()


def arguments(code: str) -> tuple[str, str]:
    """Those of python."""
    return "-c", _PRELUDE + textwrap.dedent(code)
