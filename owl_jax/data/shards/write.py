"""Writing a source as ArrayRecord shards: what python -m owl_jax.prepare does.

A target directory holds data-00000.array_record and so on, skipped.jsonl ({"where", "reason",
"message"} a line) and, when all is done, manifest.json. Records keep the order of the source. What
is in a shard depends on the source and the options alone: not on threads, and not on whether the
run was killed and begun again in between (shards/journal.py).
"""

from __future__ import annotations

import os
import shutil
from collections import Counter, deque
from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from owl_jax.data.drops import Dropped
from owl_jax.data.shards.journal import SKIPPED_FILE, Journal, lock, read_header
from owl_jax.data.shards.manifest import (
    JOURNAL_FILE,
    MANIFEST_FILE,
    Manifest,
    check_shards,
    read_manifest,
)
from owl_jax.data.shards.payload import Reencoding, pack
from owl_jax.data.shards.writer import ShardWriter, writing
from owl_jax.data.sources.record import Source
from owl_jax.errors import BadData, UserError

# Indices of the source (sources/index.py) are kept here while the target is not finished.
INDEX_DIR = "index"

# The share of skipped records is judged once this many have been seen, and at the end.
_RECORDS_BEFORE_JUDGING = 100


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


class Progress(NamedTuple):
    """done: records of the source so far, of `total`. skipped: how many of them."""

    done: int
    total: int
    skipped: int


def find_finished(target: Path, spec: str, options: Options) -> Manifest | None:
    """The manifest of a target that is finished; None for one that is new, or to be gone on with.

    Raises UserError for a target that was made from something else or has lost a shard, and for
    another directory.
    """
    if (target / MANIFEST_FILE).exists():
        manifest = read_manifest(target)
        _check_same(target, manifest.source, manifest.options, spec, options)
        check_shards(target, manifest)
        # There if the run was killed in its last moment.
        (target / JOURNAL_FILE).unlink(missing_ok=True)
        return manifest
    if target.exists() and not target.is_dir():
        raise UserError(f"--target={target} is a file; expected a directory")
    header = read_header(target)
    if header is not None:
        _check_same(target, header["source"], header["options"], spec, options)
    elif (target / JOURNAL_FILE).exists():
        restart(target)  # an earlier run was killed in its first moment, or while it deleted
    elif target.exists() and any(path.name != INDEX_DIR for path in target.iterdir()):
        raise UserError(f"--target={target} holds other files; expected a new or empty directory")
    return None


def restart(target: Path) -> None:
    """Deletes what earlier runs have left in `target`, and nothing else.

    Raises UserError where another process is writing there.
    """
    manifest, journal = target / MANIFEST_FILE, target / JOURNAL_FILE
    if not manifest.exists() and not journal.exists():
        return
    # While the journal is there, the rest is known as an earlier run's.
    with writing(target), journal.open("ab") as file:
        lock(file, target)
        manifest.unlink(missing_ok=True)
        for path in [*target.glob("data-*.array_record*"), target / SKIPPED_FILE]:
            path.unlink(missing_ok=True)
        shutil.rmtree(target / INDEX_DIR, ignore_errors=True)
        journal.unlink()


def write_shards(
    source: Source,
    target: Path,
    spec: str,
    options: Options,
    max_dropped: float,
    threads: int,
    report: Callable[[Progress], None] = lambda progress: None,
) -> Manifest:
    """Writes the source to `target`, or what is left to do of it.

    Args:
      spec: what the manifest calls the source.
      max_dropped: the share of records that may be skipped.
      threads: that read and decode; a few records for each are in memory.
      report: is told after each record.

    Raises UserError where too many records are skipped, where the source has changed since the
    target was begun, and where the target cannot be written; what is finished of it stays.
    """
    total = len(source) if options.limit is None else min(len(source), options.limit)
    header = {"source": spec, "options": asdict(options), "records": len(source)}
    reencoding = Reencoding(options.reencode, options.max_side) if options.reencode else None
    with writing(target):
        target.mkdir(parents=True, exist_ok=True)
        journal = Journal(target, header)
    shard_bytes = round(options.shard_size * 2**20)
    packing = _pack_in_threads(source, range(journal.next_index, total), reencoding, threads)
    with (
        journal,
        ShardWriter(target, journal, shard_bytes) as shards,
        closing(packing) as packed,
    ):
        for index, item in packed:
            if isinstance(item, Dropped):
                with writing(target):
                    journal.skip(item)
            else:
                shards.add(item, index)
            if index + 1 >= _RECORDS_BEFORE_JUDGING:
                _judge(journal.skipped, index + 1, max_dropped, target)
            report(Progress(index + 1, total, journal.skipped.total()))
        _judge(journal.skipped, total, max_dropped, target)
        shards.finish(total)
        manifest = Manifest(spec, asdict(options), journal.skipped, journal.shards)
        shutil.rmtree(target / INDEX_DIR, ignore_errors=True)
        with writing(target):
            _replace(target / MANIFEST_FILE, manifest.to_json())
            (target / JOURNAL_FILE).unlink()
    return manifest


def _pack_in_threads(
    source: Source, indices: range, reencoding: Reencoding | None, threads: int
) -> Generator[tuple[int, bytes | Dropped], None, None]:
    """Each record's payload, in order; a few are under way in threads."""

    def work(index: int) -> bytes | Dropped:
        try:
            return pack(source[index], reencoding)
        except BadData as error:
            return Dropped.of(error)

    waiting: deque[tuple[int, Future[bytes | Dropped]]] = deque()
    pool = ThreadPoolExecutor(threads, thread_name_prefix="prepare")
    try:
        for index in indices:
            waiting.append((index, pool.submit(work, index)))
            if len(waiting) > 2 * threads:
                first, future = waiting.popleft()
                yield first, future.result()
        while waiting:
            first, future = waiting.popleft()
            yield first, future.result()
    finally:
        pool.shutdown(cancel_futures=True)


def _judge(skipped: Counter[str], seen: int, max_dropped: float, target: Path) -> None:
    """Raises UserError where too many records were skipped, or all."""
    count = skipped.total()
    if count and (count > max_dropped * seen or count == seen):
        by_reason = ", ".join(f"{reason}: {n}" for reason, n in skipped.most_common())
        raise UserError(
            f"{count} of {seen} records were skipped ({by_reason}), allowed is a share of "
            f"--max_dropped={max_dropped:g}; see {target / SKIPPED_FILE}, then mend the data and "
            "--restart, or allow more and go on"
        )


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


def _replace(path: Path, text: str) -> None:
    """Writes a file that is there whole or not at all."""
    part = path.with_name(f"{path.name}.partial")
    with part.open("w", encoding="utf-8", errors="backslashreplace") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)
