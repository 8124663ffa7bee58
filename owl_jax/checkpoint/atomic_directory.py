"""A directory that appears whole or not at all, whoever else writes it at the same time.

It is written under a private hidden name beside its place, `.NAME.RANDOM.HOST.partial`, and renamed
at the end. A rename onto an empty directory succeeds and onto any other fails, so of several runs
with one target exactly one wins. The private directory is locked while its owner lives: what a
killed run has left is known by its free lock and removed by the next run with the same target, or,
where another host wrote it or the file system knows no locks, once it is a day old.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import jax
import numpy as np
from jax.experimental.multihost_utils import broadcast_one_to_all, sync_global_devices
from safetensors import SafetensorError

from owl_jax.errors import UserError, disk_full, one_line, printable
from owl_jax.files import beside, lock_directory

_DAY = 24 * 3600.0
_ATTEMPTS = 10

# What process 0 tells the others at a time, in bytes.
_MESSAGE_BYTES = 2048


@contextmanager
def whole_directory(directory: Path) -> Iterator[Path]:
    """A new directory to write into, renamed to `directory` at the end, removed after an error.

    All processes of a multi-host run call it; process 0 makes, renames and removes it.

    Args:
      directory: must not exist, or be empty; its parents are made. A link is followed.

    Raises UserError where `directory` is in use or comes into use meanwhile, or cannot be written.
    """
    first = jax.process_index() == 0
    lock: int | None = None
    partial: Path | None = None
    try:
        fault = ""
        try:
            place = _free_place(directory)
            if first:
                _remove_leftovers(place)
                partial, lock = _private(place)
        except (OSError, UserError, ValueError) as error:
            fault = str(_as_user_error(error, directory))
        _raise_together(fault)
        partial = place.with_name(_from_first(partial.name if partial else ""))
        yield partial
        sync_global_devices(f"{partial} is complete")
        if first:
            try:
                partial.rename(place)
            except OSError as error:
                fault = _lost(error, directory)
        _raise_together(fault)
    except (OSError, SafetensorError, ValueError) as error:
        # TensorStore and safetensors say what the system said in a text of theirs.
        if not isinstance(error, OSError) and disk_full(error) is None:
            raise
        raise _as_user_error(error, directory) from error
    finally:
        if first and partial is not None:
            shutil.rmtree(partial, ignore_errors=True)
        if lock is not None:
            os.close(lock)


def check_free(directory: Path) -> None:
    """Raises UserError where `whole_directory` would, as far as that is known before."""
    try:
        _free_place(directory)
    except (OSError, ValueError) as error:  # ValueError: a null character
        raise _as_user_error(error, directory) from None


def _free_place(directory: Path) -> Path:
    """Where `directory` is, links followed. Raises UserError where something is there."""
    place = Path(os.path.realpath(directory))
    try:
        place.lstat()
    except FileNotFoundError:
        return place
    if not place.is_dir() or any(place.iterdir()):
        raise UserError(f"{directory} exists already; name another place or remove it")
    if place.is_mount() or place == Path.cwd():
        what = "a mount point" if place.is_mount() else "the working directory"
        raise UserError(f"{directory} is {what}, which cannot be replaced; name a new one in it")
    return place


def _private(place: Path) -> tuple[Path, int | None]:
    """A new directory beside `place` with its lock."""
    place.parent.mkdir(parents=True, exist_ok=True)
    for _ in range(_ATTEMPTS):
        # Another run may take it for what a killed one has left, just before it is locked.
        with suppress(BlockingIOError, FileNotFoundError):
            return _locked(beside(place, f"{_host()}.partial"))
    return _locked(beside(place, f"{_host()}.partial"))


def _locked(new: Path) -> tuple[Path, int | None]:
    new.mkdir()
    return new, lock_directory(new)


def _remove_leftovers(place: Path) -> None:
    """Removes what killed runs with the same target have left, and says so."""
    name = re.compile(rf"\.{re.escape(place.name[:40])}\.[0-9a-f]{{12}}\.([0-9a-f]{{8}})\.partial")
    try:
        found = [(path, match[1]) for path in place.parent.iterdir()
                 if (match := name.fullmatch(path.name))]  # fmt: skip
    except OSError:  # the parent is new, or may not be listed
        return
    for path, host in found:
        with suppress(OSError):  # a living run's, or another run removes it right now
            lock = lock_directory(path)
            try:
                dead = lock is not None and host == _host()
                if dead or time.time() - _last_change(path) > _DAY:
                    shutil.rmtree(path)
                    print(
                        f"note: {printable(str(path))} is removed, a killed run had left it",
                        file=sys.stderr,
                        flush=True,
                    )
            finally:
                if lock is not None:
                    os.close(lock)


def _last_change(directory: Path) -> float:
    return max(
        path.lstat().st_mtime
        for folder, _, names in os.walk(directory)
        for path in (Path(folder), *(Path(folder, name) for name in names))
    )


def _host() -> str:
    return hashlib.sha256(socket.gethostname().encode()).hexdigest()[:8]


def _lost(error: OSError, directory: Path) -> str:
    if error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
        return (
            f"{directory} has appeared while this was being written, from another run; it stays as "
            "it is, and nothing is left of this one. Name another place or remove it"
        )
    return str(_as_user_error(error, directory))


def _as_user_error(error: Exception, directory: Path) -> UserError:
    if isinstance(error, UserError):
        return error
    full = disk_full(error)
    reason = full or getattr(error, "strerror", None) or one_line(error)
    remedy = "Free some space or name another place" if full else "Name another place"
    return UserError(f"{directory} cannot be written: {reason}; nothing is left of it. {remedy}")


def _raise_together(fault: str) -> None:
    """Raises UserError in all processes if process 0 has a fault, and in one with its own."""
    if message := _from_first(fault) or fault:
        raise UserError(message)


def _from_first(text: str) -> str:
    """The text of process 0, in every process."""
    if jax.process_count() == 1:
        return text
    data = text.encode("utf-8", "backslashreplace")[:_MESSAGE_BYTES]
    padded = np.frombuffer(data.ljust(_MESSAGE_BYTES, b"\0"), np.uint8)
    told = np.asarray(broadcast_one_to_all(padded)).tobytes().rstrip(b"\0")
    return told.decode("utf-8", "replace")
