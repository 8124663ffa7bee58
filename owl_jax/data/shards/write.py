"""Writes a source as ArrayRecord shards, for python -m owl_jax.prepare.

A target directory has data-00000.array_record and so on, skipped.jsonl (one {"where", "reason",
"message"} per line) and, at the end, manifest.json. Records keep the order of the source. The
shards depend only on the source and the options, not on threads or interruptions
(shards/journal.py).
"""

from __future__ import annotations

import os
import shutil
from collections import Counter, deque
from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple, TypeAlias

from owl_jax.data.drops import Dropped, too_many
from owl_jax.data.shards.journal import SKIPPED_FILE, Journal
from owl_jax.data.shards.manifest import JOURNAL_FILE, MANIFEST_FILE, Manifest
from owl_jax.data.shards.payload import Reencoding, notes_of, pack
from owl_jax.data.shards.target import INDEX_DIR, Options
from owl_jax.data.shards.writer import ShardWriter, writing
from owl_jax.data.sources.record import Source
from owl_jax.errors import BadData, UserError

_Packed: TypeAlias = tuple[bytes, list[str]]  # payload and notes of a record


class Progress(NamedTuple):
    """Record counts. done: processed so far, of `total`. skipped: processed but left out."""

    done: int
    total: int
    skipped: int


def write_shards(
    source: Source,
    fingerprint: str,
    target: Path,
    spec: str,
    options: Options,
    max_dropped: float,
    threads: int,
    report: Callable[[Progress], None] = lambda progress: None,
) -> Manifest:
    """Writes the source to `target`, or resumes an interrupted run.

    Args:
      fingerprint: of the source (sources/dataset_hash.py), to detect changes.
      spec: the source as the user gave it, for the manifest.
      max_dropped: the share of records that may be skipped.
      threads: number of threads that read and decode; each keeps a few records in memory.
      report: called after each record.

    Raises UserError if too many records are skipped, if the source has changed since the first
    run, or if the target cannot be written; finished shards are kept.
    """
    total = len(source) if options.limit is None else min(len(source), options.limit)
    header = {
        "source": spec,
        "options": asdict(options),
        "records": len(source),
        "fingerprint": fingerprint,
    }
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
                payload, notes = item
                shards.add(payload, index)
                journal.noted.update(notes)
            if too_many(journal.skipped.total(), index + 1, max_dropped):
                raise _too_many(journal.skipped, index + 1, max_dropped, target)
            report(Progress(index + 1, total, journal.skipped.total()))
        # All records are seen: compare the exact share, without the margin of too_many.
        count = journal.skipped.total()
        if count > max_dropped * total or count == total:
            raise _too_many(journal.skipped, total, max_dropped, target)
        shards.finish(total)
        manifest = Manifest(
            spec, fingerprint, asdict(options), journal.skipped, journal.shards, journal.noted
        )
        shutil.rmtree(target / INDEX_DIR, ignore_errors=True)
        with writing(target):
            _replace(target / MANIFEST_FILE, manifest.to_json())
            (target / JOURNAL_FILE).unlink(missing_ok=True)
    return manifest


def _pack_in_threads(
    source: Source, indices: range, reencoding: Reencoding | None, threads: int
) -> Generator[tuple[int, _Packed | Dropped], None, None]:
    """Yields (index, (payload, notes) or Dropped) in order; threads work a few records ahead."""

    def work(index: int) -> _Packed | Dropped:
        try:
            record = source[index]
            return pack(record, reencoding), notes_of(record)
        except BadData as error:
            return Dropped.of(error, source.where(index))

    waiting: deque[tuple[int, Future[_Packed | Dropped]]] = deque()
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


def _too_many(skipped: Counter[str], seen: int, max_dropped: float, target: Path) -> UserError:
    by_reason = ", ".join(f"{reason}: {n}" for reason, n in skipped.most_common())
    return UserError(
        f"{skipped.total()} of {seen} records were skipped ({by_reason}), more than "
        f"--max_dropped={max_dropped:g} allows; see {target / SKIPPED_FILE}, then fix the data and "
        "--restart, or raise the limit and resume"
    )


def _replace(path: Path, text: str) -> None:
    """Writes a file atomically."""
    part = path.with_name(f"{path.name}.partial")
    part.unlink(missing_ok=True)  # a killed run may have left it, and "x" refuses existing files
    with part.open("x", encoding="utf-8", errors="backslashreplace") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)
