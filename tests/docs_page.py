"""Runs a page of docs/ as it is, in a folder: its files, commands and Python code, from the top."""

from __future__ import annotations

import contextlib
import io
import os
import re
import shlex
import textwrap
from pathlib import Path

import forked
from quick_compile import on_devices

ROOT = Path(__file__).parents[1]


def blocks_of(page: str) -> list[str]:
    """The indented blocks of code of docs/PAGE."""
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    blocks = re.findall(r"(?:^ {4}.*\n|^\n+(?= {4}))+", text, re.MULTILINE)
    return [textwrap.dedent(block).strip("\n") for block in blocks if block.strip()]


def run_page(page: str, folder: Path, json_file: str = "") -> list[str]:
    """Runs the blocks in `folder`, the working directory; returns what each that runs printed.

    A block that begins with `# NAME.py` is written to that file, JSON to `json_file`. Commands get
    eight devices.
    """
    printed = []
    for block in blocks_of(page):
        if file := re.match(r"# (\w+\.py)\n", block):
            (folder / file[1]).write_text(f"{block}\n", encoding="utf-8")
        elif block.startswith("{"):
            (folder / json_file).write_text(f"{block}\n", encoding="utf-8")
        elif block.startswith("python -m "):
            printed += [_command(line, folder) for line in block.splitlines()]
        else:
            with contextlib.chdir(folder), contextlib.redirect_stdout(io.StringIO()) as out:
                exec(compile(block, page, "exec"), {})
            printed.append(out.getvalue())
    return printed


def _command(line: str, folder: Path) -> str:
    python, *arguments = shlex.split(line)
    assert python == "python"
    environment = os.environ | {"XLA_FLAGS": on_devices(8)}
    done = forked.run(*arguments, environment=environment, directory=folder)
    assert done.returncode == 0, done.stderr
    return done.stdout
