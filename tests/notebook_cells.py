"""The notebooks of examples/, and the commands in their cells."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import nbformat
from nbformat import NotebookNode

EXAMPLES = Path(__file__).parents[1] / "examples"

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


def python_calls(notebook: NotebookNode, folder: Path) -> list[list[str]]:
    """The arguments of each `python` in the cells for bash, which are run without running those.

    The settings are the notebook's own, which it puts into the environment, and its results would
    be below `folder`.
    """
    here = folder / "examples"
    here.mkdir()
    script = f"{parameters(notebook).source}\nimport json\nprint(json.dumps(dict(os.environ)))"
    settings = subprocess.run(
        [sys.executable, "-c", script], cwd=here, stdout=subprocess.PIPE, check=True
    )
    (folder / "python").write_text(_PYTHON)
    (folder / "python").chmod(0o755)
    path = os.pathsep.join([str(folder), os.environ["PATH"]])
    environment = json.loads(settings.stdout) | {"PATH": path, "RECORD": str(folder / "record")}
    for cell in notebook.cells:
        if cell.cell_type == "code" and cell.source.startswith("%%bash\n"):
            bash = ["bash", "-e", "-c", cell.source.removeprefix("%%bash\n")]
            subprocess.run(bash, env=environment, cwd=here, check=True)
    lines = (folder / "record").read_text().splitlines()
    return [line.split("\x1f")[:-1] for line in lines]
