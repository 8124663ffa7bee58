"""Paths as people type them and terminals paste them: quoted, escaped, as file URLs, several."""

from __future__ import annotations

import os
import shlex

from owl_jax import files

# As word processors and chats make them of plain ones.
_CURLY = {"\u201c": "\u201d", "\u2018": "\u2019", "\u00ab": "\u00bb"}


def typed_paths(text: str) -> list[str]:
    """The paths in what follows a command, in order; [] if there is none.

    What names a file as it stands is that file, blanks, quotes and backslashes included. Otherwise
    the text is read as a shell reads it (a backslash before a blank, quotes, several at once), with
    file URLs and `~`. A text with blanks that names no file in either way stays one path.

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
        # Backslashes are no escapes in C:\\owls\\a.png.
        words = [bare] if files.is_of_windows(bare) else shlex.split(text)
    except ValueError:  # a quote that is not closed
        words = [text.strip()]
    paths = [local_path(word) for word in words if word]
    if not any(map(exists, paths)) and len(paths) > 1:
        whole = local_path(text.strip().strip("'\""))
        # Several that all are missing: URLs or whole paths from the root are names of their own.
        if exists(whole) or not all(path.startswith("/") for path in paths):
            return [whole]
    return paths


def local_path(text: str) -> str:
    """One path or file URL as the system takes it. Raises UserError as typed_paths."""
    return text if exists(text) else files.as_typed(text)


def exists(path: str) -> bool:
    """Whether anything is there; False, not an error, for NULs and names that are too long."""
    return os.path.exists(path)  # noqa: PTH110
