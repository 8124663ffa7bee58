"""Files of the user's: opened without surprises, and paths as people type them.

A FIFO or a device would block its reader for ever, so only regular files, and links to them, are
opened. Nothing here knows what a file holds; read_json knows that it is a JSON object.
"""

from __future__ import annotations

import errno
import json
import os
import stat
import uuid
from collections import Counter
from pathlib import Path
from typing import Any, BinaryIO

from owl_jax.errors import UserError, shown

# Of a configuration or an index of weights: the largest of released models are a few megabytes.
_LARGEST_JSON = 1 << 28


class NotAFile(OSError):
    """What is there is no regular file: a folder, FIFO, socket or device."""


def open_regular(path: Path) -> BinaryIO:
    """Opens a regular file for reading. Raises OSError (NotAFile for what is no regular file)."""
    # O_NONBLOCK: opening a FIFO would wait for its writer. It changes nothing for a regular file.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        check_regular(descriptor, path)
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def check_regular(file: int | str | Path, name: str | Path | None = None) -> None:
    """Raises OSError where `file`, a path or a descriptor, is not there or no regular file.

    For libraries that open a path by themselves. name: what the error names instead of `file`.
    """
    mode = os.stat(file).st_mode  # noqa: PTH116 - of a descriptor too
    if stat.S_ISREG(mode):
        return
    kinds = {
        stat.S_IFDIR: (errno.EISDIR, "is a directory"),
        stat.S_IFIFO: (errno.EINVAL, "is a FIFO, not a regular file"),
        stat.S_IFSOCK: (errno.EINVAL, "is a socket, not a regular file"),
    }
    number, what = kinds.get(stat.S_IFMT(mode), (errno.EINVAL, "is a device, not a regular file"))
    raise NotAFile(number, what, str(file if name is None else name))


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file.

    Raises UserError if there is none, it is nested too deeply, or a key is in an object twice.

    Its numbers may be NaN or infinite, as Python writes them.
    """
    try:
        with open_regular(path) as file:
            data = file.read(_LARGEST_JSON + 1)
        if len(data) > _LARGEST_JSON:
            raise UserError(f"{path}: over {_LARGEST_JSON >> 20} MiB; expected a small JSON object")
        values = json.loads(data.decode("utf-8-sig"), object_pairs_hook=_each_key_once)
    except NotAFile as error:
        raise UserError(f"{path}: {error.strerror}; expected a JSON file") from None
    except OSError as error:
        raise UserError(f"{path.parent}: no {path.name} ({error.strerror})") from None
    except RecursionError:
        raise UserError(f"{path}: damaged, its JSON is nested too deeply") from None
    except ValueError as error:
        raise UserError(f"{path}: not JSON ({error})") from None
    if not isinstance(values, dict):
        raise UserError(f"{path}: expected a JSON object, found {type(values).__name__}")
    return values


def _each_key_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        counts = Counter(key for key, _ in pairs)
        raise ValueError(f"key {shown(counts.most_common(1)[0][0])} twice in one object")
    return values


def beside(path: Path, kind: str = "partial") -> Path:
    """A hidden name beside `path` that no other process uses, to write to before a rename.

    As short as the longest name that a file system takes, whatever the length of `path`'s.
    """
    return path.with_name(f".{path.name[:40]}.{uuid.uuid4().hex[:12]}.{kind}")


def as_typed(path: str) -> str:
    """A path as people type it, as the system takes it: "~/runs" and "~user/runs" are expanded."""
    try:
        return str(Path(path).expanduser()) if path.startswith("~") else path
    except RuntimeError:
        raise UserError(f"{shown(path)}: there is no such user; write the whole path") from None
