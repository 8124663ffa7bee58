"""Finds prompts for judges in a benchmark's own scripts, which people download with its data.

Long prompts belong to their authors, and a judge's numbers depend on their wording. So the official
text is read from the official script if that is in the data folder. Scripts are parsed, never run.
"""

from __future__ import annotations

import ast
from pathlib import Path

from owl_jax.errors import UserError
from owl_jax.evaluation.data_files import read_text


def find_prompt(data: Path, script: str, marker: str) -> str | None:
    """The longest string in the script that has the marker; None if the script is not in `data`.

    Raises UserError if the script has no such string.
    """
    path = data / script
    if not path.is_file():
        return None
    try:
        nodes = ast.walk(ast.parse(read_text(path)))
    except (SyntaxError, RecursionError) as error:
        raise UserError(f"{path} is no Python file: {error}") from None
    texts = [
        node.value
        for node in nodes
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and marker in node.value
    ]
    if not texts:
        raise UserError(f"{path} has no text with {marker!r}; expected the benchmark's own script")
    return max(texts, key=len)
