"""The directory that a run of prepare writes: new, begun, finished, or somebody's own.

Nothing is deleted but what has the names of our files, beside a manifest or a journal of ours.
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

# Indices of the source (sources/kept_index.py) are here while the target is not finished. It is
# deleted as a whole, so it has a name that nobody else gives.
INDEX_DIR = "owl_jax_index"

_OUR_FILES = re.compile(
    rf"data-\d{{5,}}\.array_record(\.partial)?|{re.escape(MANIFEST_FILE)}\.partial|"
    rf"{re.escape(SKIPPED_FILE)}"
)


@dataclass(frozen=True)
class Options:
    """What decides, with the source, what is in the shards. The names are those of the flags.

    media_root: as sources/open.py takes it. shard_size: in MiB, of the payloads; a larger record
    has a shard of its own. limit: only so many of the source's first records. reencode: the
    quality of JPEG for all pictures. max_side: their longest side, then.
    """

    media_root: str = ""
    shard_size: float = 256
    limit: int | None = None
    reencode: int | None = None
    max_side: int | None = None


@contextmanager
def alone_in(target: Path) -> Iterator[None]:
    """Makes the directory `target` and keeps other processes out of it, its indices too.

    If it is empty and was made here, it is removed again at the end.
    Raises UserError where another process is in, or the directory cannot be made.
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
            with suppress(OSError):  # not empty: what was written stays
                target.rmdir()
        if lock is not None:
            os.close(lock)


def is_busy(target: Path) -> bool:
    """Whether another process is in `alone_in`."""
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
    """The manifest of a target that is finished; None for one that is new, or to be gone on with.

    Raises UserError for a target that was made from something else or has lost a shard, and for
    another directory.
    """
    with writing(target):  # of a name that is too long even exists() is an error
        if target.exists() and not target.is_dir():
            raise UserError(f"--target={target} is a file; expected a directory")
    if is_finished(target):
        manifest = read_manifest(target)
        _check_same(target, manifest.source, manifest.options, spec, options)
        check_shards(target, manifest)
        if is_begun(target) or is_barely_begun(target):
            # The run was killed in its last moment.
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
    """Raises UserError where the source of a finished target says something else by now."""
    if manifest.fingerprint != fingerprint:
        raise UserError(
            f"{target} is finished, but its source has changed since (fingerprint "
            f"{manifest.fingerprint}, now {fingerprint}); give another --target, or --restart to "
            "throw away what is there"
        )


def restart(target: Path) -> None:
    """Deletes what earlier runs have left in `target`, and nothing else.

    Raises UserError where a manifest or a journal there is not of prepare, and where another
    process is writing there.
    """
    journal, manifest = target / JOURNAL_FILE, target / MANIFEST_FILE
    has_journal = is_begun(target) or is_barely_begun(target)
    for path, is_ours in ((manifest, is_finished(target)), (journal, has_journal)):
        if path.exists() and not is_ours:
            raise UserError(
                f"{path} is not of prepare, so nothing is deleted; give a new or empty directory "
                "as --target"
            )
    if not is_finished(target) and not is_begun(target):
        return
    with writing(target), journal.open("ab") as file:
        lock(file, target)
        for path in target.iterdir():
            if _OUR_FILES.fullmatch(path.name):
                path.unlink()
        shutil.rmtree(target / INDEX_DIR, ignore_errors=True)
        # Last what tells that the rest is ours, so that killed before, it can be deleted again.
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
            "another --target, or --restart to throw away what is there"
        )


def _flags(values: Mapping[str, Any], names: Sequence[str]) -> str:
    return " ".join(
        f"no --{name}" if values.get(name) in (None, "") else f"--{name}={values[name]}"
        for name in names
    )
