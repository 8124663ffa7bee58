"""The notebooks of examples/, and the commands in their cells."""

from __future__ import annotations

import os
import re
import subprocess
import textwrap
from pathlib import Path

import nbformat
from nbformat import NotebookNode

EXAMPLES = Path(__file__).parents[2] / "examples"

# Writes its arguments down, one command a line.
_PYTHON = """#!/usr/bin/env bash
printf '%s\\x1f' "$@" >> "$RECORD"
echo >> "$RECORD"
"""


def read(name: str) -> NotebookNode:
    """examples/NAME.ipynb."""
    return nbformat.read(EXAMPLES / f"{name}.ipynb", as_version=4)


def parameters(notebook: NotebookNode) -> NotebookNode:
    """The cell with the settings."""
    (cell,) = (cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", []))
    return cell


def markdown(notebook: NotebookNode) -> str:
    """The text between the cells of code."""
    return "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")


def terminal_lines(notebook: NotebookNode) -> list[str]:
    """The indented lines of that text: commands for a terminal."""
    blocks = re.findall(r"(?:^ {4}.*\n?)+", markdown(notebook), re.MULTILINE)
    return [line for block in blocks for line in textwrap.dedent(block).splitlines()]


def shell_cells(notebook: NotebookNode) -> list[str]:
    """The scripts of the cells for bash."""
    sources = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    return [text.removeprefix("%%bash\n") for text in sources if text.startswith("%%bash\n")]


def python_calls(script: str, settings: dict[str, str], folder: Path) -> list[list[str]]:
    """The arguments of each `python` in a script, which is run without running them."""
    record = folder / "record"
    record.write_text("")
    (folder / "python").write_text(_PYTHON)
    (folder / "python").chmod(0o755)
    path = os.pathsep.join([str(folder), os.environ["PATH"]])
    environment = os.environ | settings | {"PATH": path, "RECORD": str(record)}
    subprocess.run(["bash", "-e", "-c", script], env=environment, cwd=EXAMPLES, check=True)
    return [line.split("\x1f")[:-1] for line in record.read_text().splitlines()]
