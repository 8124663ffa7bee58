"""Opens and writes user files safely, and expands paths as people type them.

Only regular files, and links to them, are opened: a FIFO or a device would block its reader for
ever. Files that several processes may write at once are written under a private name and renamed.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import stat
import uuid
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import unquote_to_bytes

from owl_jax.errors import BadData, UserError, shown

# Bytes. Configs and weight indices of released models have at most a few megabytes.
_LARGEST_JSON = 1 << 28

# Errors of names that cannot exist: too long, or below a file.
_NO_SUCH_NAME = (errno.ENAMETOOLONG, errno.ENOTDIR)

# RFC 8089: the host, unless it is localhost, and the path.
_FILE_URL = re.compile(r"file:(?://(?:localhost(?=/))?([^/]*))?(/.*)?$", re.IGNORECASE | re.DOTALL)
# C:\owls, C:/owls and \\server\owls: the drive and the rest.
_WINDOWS = re.compile(r"([A-Za-z]):[\\/](.*)|\\\\.*", re.DOTALL)
_VARIABLE = re.compile(r"\$(?:[A-Za-z_]\w*|\{\w+\})(?:/|$)|%[A-Za-z_]\w*%")


# What Git leaves in place of a large file that it has not fetched: a text of about 130 bytes.
_POINTER = b"version https://git-lfs.github.com/spec/"
_LONGEST_POINTER = 1024


class NotAFile(OSError):
    """The path is not a regular file, but a folder, FIFO, socket, device or Git LFS pointer."""


class GitPointer(NotAFile):
    """Git LFS's pointer in the place of a file."""


def open_regular(path: Path) -> BinaryIO:
    """Opens a regular file for reading. Raises OSError; NotAFile if it is not a regular file."""
    # Without O_NONBLOCK, opening a FIFO would wait for a writer. Regular files ignore it.
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        descriptor = os.open(path, flags)
    except ValueError as error:  # a NUL or a surrogate
        raise FileNotFoundError(errno.ENOENT, f"no file has such a name: {error}") from None
    except OSError as error:
        if error.errno == errno.ENXIO:  # a socket or a missing device
            check_regular(path)
        raise
    try:
        check_regular(descriptor, path)
        # Unlike os.fdopen, this gives the file a name, for messages.
        return open(path, "rb", opener=lambda *_: descriptor)
    except BaseException:
        os.close(descriptor)
        raise


def check_regular(file: int | str | Path, name: str | Path | None = None) -> None:
    """Raises OSError if `file`, a path or a descriptor, is missing or not a regular file.

    So does a Git LFS pointer. For libraries that open a path themselves. name: the file's name in
    the error.
    """
    status = os.stat(file)  # noqa: PTH116 - also takes descriptors
    mode = status.st_mode
    if stat.S_ISREG(mode):
        if len(_POINTER) <= status.st_size <= _LONGEST_POINTER and _is_pointer(file):
            what = "is a Git LFS pointer, not the file itself: run `git lfs pull` in its folder"
            raise GitPointer(errno.ENODATA, what, str(file if name is None else name))
        return
    kinds = {
        stat.S_IFDIR: (errno.EISDIR, "is a directory"),
        stat.S_IFIFO: (errno.EINVAL, "is a FIFO, not a regular file"),
        stat.S_IFSOCK: (errno.EINVAL, "is a socket, not a regular file"),
    }
    number, what = kinds.get(stat.S_IFMT(mode), (errno.EINVAL, "is a device, not a regular file"))
    raise NotAFile(number, what, str(file if name is None else name))


def _is_pointer(file: int | str | Path) -> bool:
    try:
        if isinstance(file, int):
            return os.pread(file, len(_POINTER), 0) == _POINTER
        with open(file, "rb") as opened:  # noqa: PTH123 - `file` may be a text
            return opened.read(len(_POINTER)) == _POINTER
    except OSError:  # whoever reads it reports that
        return False


def is_directory(path: str | Path) -> bool:
    """Whether `path` is a directory; False for an impossible name, such as one that is too long."""
    return os.path.isdir(path)  # noqa: PTH112 - Path.is_dir raises for a name that is too long


def bad_file(error: OSError) -> BadData:
    """The BadData to raise for a media or text file that cannot be opened or read."""
    if error.errno == errno.ENOENT:
        return BadData("missing file", "no such file")
    if error.errno in _NO_SUCH_NAME:
        return BadData("missing file", f"no such file ({error.strerror})")
    return BadData("unreadable file", f"cannot be read ({error.strerror})")


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file. Numbers may be NaN or infinite, as Python writes them.

    Raises UserError if there is none, it is nested too deeply, or an object has a key twice.
    """
    try:
        with open_regular(path) as file:
            data = file.read(_LARGEST_JSON + 1)
        if len(data) > _LARGEST_JSON:
            raise UserError(f"{path}: over {_LARGEST_JSON >> 20} MiB; expected a small JSON object")
        values = json.loads(data.decode("utf-8-sig"), object_pairs_hook=each_key_once)
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


def each_key_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object, for `json.loads`. Raises ValueError for a repeated key."""
    values = dict(pairs)
    if len(values) < len(pairs):
        counts = Counter(key for key, _ in pairs)
        raise ValueError(f"key {shown(counts.most_common(1)[0][0])} twice in one object")
    return values


def beside(path: Path, kind: str = "partial") -> Path:
    """A hidden unique name beside `path`, to write to before a rename.

    Short enough for every file system, however long `path`'s name is.
    """
    return path.with_name(f".{path.name[:40]}.{uuid.uuid4().hex[:12]}.{kind}")


def write_whole(path: Path, text: str) -> None:
    """Writes a text file atomically, even if two processes write it at once: the last one wins.

    Follows a link and writes its target. Writes directly to a FIFO or a device (/dev/stdout).
    Escapes characters that UTF-8 cannot encode.

    Raises OSError, and then leaves the former file unchanged.
    """
    data = text.encode("utf-8", "backslashreplace")
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        mode = None
    if mode is not None and not is_replaceable(path):
        # O_NONBLOCK: opening a FIFO without a reader fails, instead of waiting for ever.
        # O_APPEND: standard output may be a file that already has content.
        flags = os.O_WRONLY | os.O_APPEND | os.O_NONBLOCK | os.O_CLOEXEC
        descriptor = os.open(path, flags)
        os.set_blocking(descriptor, True)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
        return
    target = Path(os.path.realpath(path))
    partial = beside(target)
    try:
        with partial.open("xb") as file:
            file.write(data)
            if mode is not None:
                os.fchmod(file.fileno(), stat.S_IMODE(mode))
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)


def is_replaceable(path: Path) -> bool:
    """Whether a new file may replace `path`: not a FIFO, device or descriptor."""
    return path.is_file() and not str(path.absolute()).startswith(
        ("/dev/fd/", "/dev/std", "/proc/")
    )


def lock_directory(directory: Path) -> int | None:
    """Locks an existing directory until the process ends.

    Returns a descriptor, which releases the lock when it is closed; None if the file system cannot
    lock directories, as some network file systems.

    Raises BlockingIOError if another process or thread holds the lock, or has just replaced or
    removed the directory; OSError if the directory cannot be opened.
    """
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise
        except OSError:
            os.close(descriptor)
            return None
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(descriptor), directory.stat()):
                return descriptor
        raise BlockingIOError(errno.EWOULDBLOCK, "was replaced meanwhile", str(directory))
    except BaseException:
        with suppress(OSError):
            os.close(descriptor)
        raise


def as_typed(path: str) -> str:
    """Expands a local path as people type it or drag it into a terminal.

    "~/runs" and "~user/runs" are expanded; file URLs ("file:///a%20b.png", "file:/a%20b.png",
    "file://localhost/a%20b.png") become "/a b.png". In WSL "C:\\owls" becomes "/mnt/c/owls".
    Anything else is returned unchanged. Raises UserError for an unknown user, for a file URL of
    another machine, and, unless a file has that name, for a Windows path or an unexpanded shell
    variable.
    """
    if found := _FILE_URL.match(path):
        host, local = found.groups()
        if (host and host.lower() != os.uname().nodename.lower()) or not local or "%00" in local:
            raise UserError(
                f"{shown(path)}: not a file of this machine; write its path, or file:///FOLDER/FILE"
            )
        local = os.fsdecode(unquote_to_bytes(os.fsencode(local)))
        return _of_windows(local[1:]) if _WINDOWS.match(local[1:]) else local
    if _WINDOWS.match(path):
        return _of_windows(path)
    if _VARIABLE.match(path) and not os.path.lexists(path):
        raise UserError(
            f"{shown(path)}: the shell has not expanded the variable; write the whole path"
        )
    try:
        return str(Path(path).expanduser()) if path.startswith("~") else path
    except RuntimeError:
        if Path(path).exists():  # a file whose name begins with ~, such as an editor's backup
            return path
        raise UserError(f"{shown(path)}: there is no such user; write the whole path") from None


def is_of_windows(path: str) -> bool:
    """Whether a path is written as on Windows: C:\\owls, or \\\\server\\owls."""
    return _WINDOWS.match(path) is not None


def _of_windows(path: str) -> str:
    """A Windows path as a path in WSL. The name of an existing file is returned unchanged."""
    found = _WINDOWS.match(path)
    drive = f"/mnt/{found[1].lower()}" if found and found[1] else ""
    if os.path.lexists(path):
        return path
    if found and drive and is_directory(drive):
        return f"{drive}/{found[2]}".replace("\\", "/")
    raise UserError(
        f"{shown(path, 200)}: a Windows path, which does not exist on this machine; write the "
        "file's path here"
    )
