"""Reads paths as people type and terminals paste them: quoted, escaped, file URLs, several."""

from __future__ import annotations

import os
import shlex

from owl_jax import files

# Word processors and chats replace plain quotes by these.
_CURLY = {"\u201c": "\u201d", "\u2018": "\u2019", "\u00ab": "\u00bb"}


def typed_paths(text: str) -> list[str]:
    """The paths in the text after a command, in order; [] if there are none.

    If the whole text names an existing file, it is one path, with its spaces, quotes and
    backslashes. Otherwise it is split as a shell would (escaped spaces, quotes, several paths), and
    file URLs and `~` are expanded. If no file exists in either reading, a text with spaces is one
    path, unless all its paths are absolute.

    Raises UserError for a file URL of another machine, or an unknown user after `~`.
    """
    if not text.strip():
        return []
    bare = text.strip()
    wholes = [text, bare]
    if _CURLY.get(bare[0]) == bare[-1]:
        wholes.append(bare[1:-1])
    for whole in wholes:
        if exists(whole):
            return [whole]
    try:
        # Backslashes are not escapes in C:\\owls\\a.png.
        words = [bare] if files.is_of_windows(bare) else shlex.split(text)
    except ValueError:  # a quote that is not closed
        words = [text.strip()]
    paths = [local_path(word) for word in words if word]
    if not any(map(exists, paths)) and len(paths) > 1:
        whole = local_path(text.strip().strip("'\""))
        # No file exists. Absolute paths and file URLs stay separate, so that errors name each.
        if exists(whole) or not all(path.startswith("/") for path in paths):
            return [whole]
    return paths


def local_path(text: str) -> str:
    """The local path of a typed path or file URL. Raises UserError as typed_paths does."""
    return text if exists(text) else files.as_typed(text)


def exists(path: str) -> bool:
    """Whether the path exists; False, not an error, for NULs and names that are too long."""
    return os.path.exists(path)  # noqa: PTH110
