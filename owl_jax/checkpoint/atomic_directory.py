"""Creates a directory atomically, even with concurrent writers.

The directory is written under a private hidden name beside its target,
`.NAME.RANDOM.HOST.partial`, and renamed at the end. Renaming onto an empty directory succeeds and
onto any other fails, so exactly one of several runs with the same target wins. The private
directory is locked while its owner lives. The next run with the same target removes the leftovers
of killed runs: those that are not locked, or, from another host or on a file system without locks,
those older than a day.
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

_MESSAGE_BYTES = 2048  # of a broadcast from process 0


@contextmanager
def whole_directory(directory: Path) -> Iterator[Path]:
    """Yields a new directory to write into; renames it to `directory`, or removes it on an error.

    All processes of a multi-host run call it; process 0 creates, renames and removes it.

    Args:
      directory: new or empty; its parents are created. A link is followed.

    Raises UserError if `directory` is in use, if another run creates it meanwhile, or if it cannot
    be written.
    """
    first = jax.process_index() == 0
    lock: int | None = None
    partial: Path | None = None
    try:
        fault = ""
        try:
            target = _free_target(directory)
            if first:
                _remove_leftovers(target)
                partial, lock = _private(target)
        except (OSError, UserError, ValueError) as error:
            fault = str(_as_user_error(error, directory))
        _raise_together(fault)
        partial = target.with_name(_from_first(partial.name if partial else ""))
        yield partial
        sync_global_devices(f"{partial} is complete")
        if first:
            try:
                partial.rename(target)
            except OSError as error:
                fault = _lost(error, directory)
        _raise_together(fault)
    except (OSError, SafetensorError, ValueError) as error:
        # TensorStore and safetensors wrap system errors in exceptions of their own.
        if not isinstance(error, OSError) and disk_full(error) is None:
            raise
        raise _as_user_error(error, directory) from error
    finally:
        if first and partial is not None:
            shutil.rmtree(partial, ignore_errors=True)
        if lock is not None:
            os.close(lock)


def check_free(directory: Path) -> None:
    """Raises UserError if `whole_directory` would fail at once."""
    try:
        _free_target(directory)
    except (OSError, ValueError) as error:  # ValueError: a null character
        raise _as_user_error(error, directory) from None


def _free_target(directory: Path) -> Path:
    """The path of `directory`, links followed. Raises UserError if it is in use."""
    target = Path(os.path.realpath(directory))
    try:
        target.lstat()
    except FileNotFoundError:
        return target
    if not target.is_dir() or any(target.iterdir()):
        raise UserError(f"{directory} exists already; name another place or remove it")
    if target.is_mount() or target == Path.cwd():
        what = "a mount point" if target.is_mount() else "the working directory"
        raise UserError(f"{directory} is {what}, which cannot be replaced; name a new one in it")
    return target


def _private(target: Path) -> tuple[Path, int | None]:
    """Creates a directory beside `target` and locks it."""
    target.parent.mkdir(parents=True, exist_ok=True)
    for _ in range(_ATTEMPTS):
        # Before it is locked, another run may remove it as a leftover.
        with suppress(BlockingIOError, FileNotFoundError):
            return _locked(beside(target, f"{_host()}.partial"))
    return _locked(beside(target, f"{_host()}.partial"))


def _locked(new: Path) -> tuple[Path, int | None]:
    new.mkdir()
    return new, lock_directory(new)


def _remove_leftovers(target: Path) -> None:
    """Removes directories of killed runs with the same target, with a note on stderr."""
    name = re.compile(rf"\.{re.escape(target.name[:40])}\.[0-9a-f]{{12}}\.([0-9a-f]{{8}})\.partial")
    try:
        found = [(path, match[1]) for path in target.parent.iterdir()
                 if (match := name.fullmatch(path.name))]  # fmt: skip
    except OSError:  # the parent is new or unreadable
        return
    for path, host in found:
        with suppress(OSError):  # it belongs to a live run, or another run is removing it
            lock = lock_directory(path)
            try:
                dead = lock is not None and host == _host()
                if dead or time.time() - _last_change(path) > _DAY:
                    shutil.rmtree(path)
                    print(
                        f"note: removed {printable(str(path))}, left by a killed run",
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
            f"another run has created {directory} in the meantime; it is unchanged, and this run "
            "leaves nothing behind. Name another place or remove it"
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
    """Raises UserError: in all processes for a fault of process 0, else only in its own process."""
    if message := _from_first(fault) or fault:
        raise UserError(message)


def _from_first(text: str) -> str:
    """Broadcasts the text of process 0."""
    if jax.process_count() == 1:
        return text
    data = text.encode("utf-8", "backslashreplace")[:_MESSAGE_BYTES]
    padded = np.frombuffer(data.ljust(_MESSAGE_BYTES, b"\0"), np.uint8)
    received = np.asarray(broadcast_one_to_all(padded)).tobytes().rstrip(b"\0")
    return received.decode("utf-8", "replace")
