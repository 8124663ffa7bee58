"""Paths as people type them and terminals paste them: quoted, escaped, as file URLs, several."""

from __future__ import annotations

import os
import shlex
from urllib.parse import unquote

from owl_jax import files
from owl_jax.errors import UserError, shown

_FILE_URL = "file://"


def typed_paths(text: str) -> list[str]:
    """The paths in what follows a command, in order; [] if there is none.

    What names a file as it stands is that file, blanks, quotes and backslashes included. Otherwise
    the text is read as a shell reads it (a backslash before a blank, quotes, several at once), with
    file URLs and `~`. A text with blanks that names no file in either way stays one path.

    Raises UserError for a file URL of another machine, or an unknown user after `~`.
    """
    if not text.strip():
        return []
    for whole in (text, text.strip()):
        if exists(whole):
            return [whole]
    try:
        words = shlex.split(text)
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
    if exists(text):
        return text
    if text[: len(_FILE_URL)].lower() == _FILE_URL:
        return path_of_url(text)
    return files.as_typed(text)


def path_of_url(url: str) -> str:
    """The path of a file URL: "file:///a%20b.png" is "/a b.png". Raises UserError for a host."""
    host, slash, path = url[len(_FILE_URL) :].partition("/")
    if host.lower() not in ("", "localhost") or not slash:
        raise UserError(f"{shown(url)}: expected file:/// and a path of this machine")
    return unquote(f"/{path}", errors="surrogateescape")


def exists(path: str) -> bool:
    """Whether anything is there; False, not an error, for NULs and names that are too long."""
    return os.path.exists(path)  # noqa: PTH110
