"""The target directory of prepare: new, begun, finished, or used for something else.

Deletes only files with names that prepare uses, and only beside prepare's own manifest or journal.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from owl_jax.data.shards.journal import (
    SKIPPED_FILE,
    busy,
    is_barely_begun,
    is_begun,
    lock,
    read_header,
)
from owl_jax.data.shards.manifest import (
    JOURNAL_FILE,
    MANIFEST_FILE,
    Manifest,
    check_shards,
    is_finished,
    read_manifest,
)
from owl_jax.data.shards.writer import writing
from owl_jax.errors import UserError
from owl_jax.files import lock_directory

# Holds indices of the source (sources/kept_index.py) until the target is finished. It is deleted
# recursively, so its name must be one that nobody else uses.
INDEX_DIR = "owl_jax_index"

_OUR_FILES = re.compile(
    rf"data-\d{{5,}}\.array_record(\.partial)?|{re.escape(MANIFEST_FILE)}\.partial|"
    rf"{re.escape(SKIPPED_FILE)}"
)


@dataclass(frozen=True)
class Options:
    """The options that, with the source, determine the shards; named like the flags.

    media_root: as in sources/detect.py. shard_size: MiB of payload per shard; a larger record gets
    its own shard. limit: write only the first `limit` records. reencode: JPEG quality of all
    images. max_side: re-encoding scales larger images down to it.
    """

    media_root: str = ""
    shard_size: float = 256
    limit: int | None = None
    reencode: int | None = None
    max_side: int | None = None


@contextmanager
def alone_in(target: Path) -> Iterator[None]:
    """Creates the directory `target` and locks it, including its indices.

    On exit, removes the directory if it was created here and is still empty.
    Raises UserError if another process holds the lock, or the directory cannot be created.
    """
    with writing(target):
        made = not target.exists()
        target.mkdir(parents=True, exist_ok=True)
        try:
            lock = lock_directory(target)
        except BlockingIOError:
            raise busy(target) from None
    try:
        yield
    finally:
        if made and lock is not None:
            with suppress(OSError):  # not empty
                target.rmdir()
        if lock is not None:
            os.close(lock)


def is_busy(target: Path) -> bool:
    """Whether another process holds the lock of `alone_in`."""
    try:
        lock = lock_directory(target)
    except BlockingIOError:
        return True
    except OSError:
        return False
    if lock is not None:
        os.close(lock)
    return False


def find_finished(target: Path, spec: str, options: Options) -> Manifest | None:
    """The manifest of a finished target; None if the target is new or to be resumed.

    Raises UserError if the target was made with another source or options, if a shard is missing,
    or if the directory holds other files.
    """
    with writing(target):  # even exists() fails if the name is too long
        if target.exists() and not target.is_dir():
            raise UserError(f"--target={target} is a file; expected a directory")
    if is_finished(target):
        manifest = read_manifest(target)
        _check_same(target, manifest.source, manifest.options, spec, options)
        check_shards(target, manifest)
        if is_begun(target) or is_barely_begun(target):
            # The run was killed just before its end.
            (target / JOURNAL_FILE).unlink(missing_ok=True)
        return manifest
    header = read_header(target)
    if header is not None:
        _check_same(target, header["source"], header["options"], spec, options)
    elif target.exists():
        expected = {INDEX_DIR, JOURNAL_FILE} if is_barely_begun(target) else {INDEX_DIR}
        if others := sorted({path.name for path in target.iterdir()} - expected):
            raise UserError(
                f"--target={target} holds other files ({', '.join(others[:3])}); expected a new or "
                "empty directory"
            )
    return None


def check_unchanged(target: Path, manifest: Manifest, fingerprint: str) -> None:
    """Raises UserError if the source of a finished target has changed."""
    if manifest.fingerprint != fingerprint:
        raise UserError(
            f"{target} is finished, but its source has changed since (fingerprint "
            f"{manifest.fingerprint}, now {fingerprint}); give another --target, or --restart to "
            "delete it"
        )


def restart(target: Path) -> None:
    """Deletes the files of earlier runs in `target`, and nothing else.

    Raises UserError if prepare did not write a manifest or journal there, or another process is
    writing there.
    """
    journal, manifest = target / JOURNAL_FILE, target / MANIFEST_FILE
    has_journal = is_begun(target) or is_barely_begun(target)
    for path, is_valid in ((manifest, is_finished(target)), (journal, has_journal)):
        if path.exists() and not is_valid:
            raise UserError(
                f"{path} was not written by prepare, so nothing is deleted; give a new or empty "
                "directory as --target"
            )
    if not is_finished(target) and not is_begun(target):
        return
    with writing(target), journal.open("ab") as file:
        lock(file, target)
        for path in target.iterdir():
            if _OUR_FILES.fullmatch(path.name):
                path.unlink()
        shutil.rmtree(target / INDEX_DIR, ignore_errors=True)
        # Deleted last: after a kill, they still mark the remaining files as prepare's.
        manifest.unlink(missing_ok=True)
        journal.unlink()


def _check_same(
    target: Path, old_spec: str, old_options: Mapping[str, Any], spec: str, options: Options
) -> None:
    old, new = {"source": old_spec, **old_options}, {"source": spec, **asdict(options)}
    if old != new:
        names = [name for name in new if old.get(name) != new[name]]
        raise UserError(
            f"{target} was made with {_flags(old, names)}, not with {_flags(new, names)}; give "
            "another --target, or --restart to delete it"
        )


def _flags(values: Mapping[str, Any], names: Sequence[str]) -> str:
    return " ".join(
        f"no --{name}" if values.get(name) in (None, "") else f"--{name}={values[name]}"
        for name in names
    )
