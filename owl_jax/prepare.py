"""Converts any source to ArrayRecord shards, the fastest random-access format for training.

    python -m owl_jax.prepare --source=SPEC --target=DIR

SPEC is any source of a mixture (owl_jax/data/sources/detect.py). Every picture and video is decoded
once, and records that training would drop are listed in DIR/skipped.jsonl instead. Media keep their
bytes, unless --reencode is given. After a kill, the same command resumes.
"""

from __future__ import annotations

import os
import sys
import time
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from absl import flags

from owl_jax import cli
from owl_jax.errors import UserError

if TYPE_CHECKING:
    from owl_jax.data.shards.manifest import Manifest
    from owl_jax.data.shards.target import Options
    from owl_jax.data.shards.write import Progress

SOURCE = flags.DEFINE_string(
    "source",
    None,
    "what to read: a file, directory, pattern, FILE.py[:ARGUMENT], or hf://datasets/ORG/NAME[/PATH]",
    required=True,
)
TARGET = flags.DEFINE_string("target", None, "directory to write, new or empty", required=True)
MEDIA_ROOT = flags.DEFINE_string(
    "media_root", "", "base of relative media paths; by default the source's own directory"
)
SHARD_SIZE = flags.DEFINE_float("shard_size", 256, "size of a shard in MiB", lower_bound=2**-10)
LIMIT = flags.DEFINE_integer("limit", None, "read only the first N records", lower_bound=1)
REENCODE = flags.DEFINE_integer(
    "reencode",
    None,
    "store pictures as JPEG of this quality; by default unchanged",
    lower_bound=1,
    upper_bound=100,
)
MAX_SIDE = flags.DEFINE_integer(
    "max_side", None, "with --reencode: downscale pictures to this longer side", lower_bound=1
)
THREADS = flags.DEFINE_integer(
    "threads", None, "threads that read and decode; by default one per core", lower_bound=1
)
MAX_DROPPED = flags.DEFINE_float(
    "max_dropped", 0.01, "share of records that may be skipped", lower_bound=0, upper_bound=1
)
RESTART = flags.DEFINE_bool("restart", False, "delete an earlier run's files in target first")

_SECONDS_BETWEEN_LINES = 5.0


def main(_: list[str]) -> None:
    """Opens the source, writes the target, and prints a summary."""
    # Imported here, since they are slow to import, and --help does not need them.
    from owl_jax.data.shards.target import INDEX_DIR, Options, alone_in, restart
    from owl_jax.data.shards.write import write_shards
    from owl_jax.data.sources.dataset_hash import fingerprint
    from owl_jax.data.sources.detect import open_source

    start = time.monotonic()
    spec, target = SOURCE.value, Path(TARGET.value)
    if MAX_SIDE.value is not None and REENCODE.value is None:
        raise UserError("--max_side needs --reencode=QUALITY; without it pictures stay unchanged")
    options = Options(
        MEDIA_ROOT.value, SHARD_SIZE.value, LIMIT.value, REENCODE.value, MAX_SIDE.value
    )
    if not RESTART.value and _is_finished(target, options, locked=False):
        return
    with alone_in(target):
        if RESTART.value:
            restart(target)
        if _is_finished(target, options, locked=True):  # another process just finished it
            return
        source = open_source(spec, MEDIA_ROOT.value, target / INDEX_DIR)
        with _Progress() as progress:
            manifest = write_shards(
                source,
                fingerprint(source),
                target,
                spec,
                options,
                MAX_DROPPED.value,
                THREADS.value or os.cpu_count() or 1,
                progress.show,
            )
    cli.say(f"{target}: {_summary(manifest)}, {time.monotonic() - start:.1f} s")


def _is_finished(target: Path, options: Options, locked: bool) -> bool:
    """Whether the target is finished; says so if it is. Raises UserError if it has other data.

    locked: whether this process holds the target's lock.
    """
    from owl_jax.data.shards.journal import busy
    from owl_jax.data.shards.target import check_unchanged, find_finished, is_busy
    from owl_jax.data.sources.dataset_hash import fingerprint
    from owl_jax.data.sources.detect import is_missing, open_source

    try:
        manifest = find_finished(target, SOURCE.value, options)
    except FileNotFoundError:
        if locked:
            raise
        return False  # another process has just deleted what was found: look again with the lock
    except UserError:
        if not locked and is_busy(target):  # not damage: another process is deleting it
            raise busy(target) from None
        raise
    if manifest is None:
        return False
    if not is_missing(SOURCE.value):  # users may delete a converted source
        # Without an index directory: nothing is written to a finished target.
        source = open_source(SOURCE.value, MEDIA_ROOT.value)
        check_unchanged(target, manifest, fingerprint(source))
    cli.say(f"{target} is finished: {_summary(manifest)}")
    return True


def _summary(manifest: Manifest) -> str:
    size = sum(shard.bytes for shard in manifest.shards)
    skipped = sum(manifest.skipped.values())
    reasons = ", ".join(f"{reason}: {count}" for reason, count in manifest.skipped.items())
    noted = "".join(f", {count:,} {note}" for note, count in manifest.noted.items())
    return (
        f"{manifest.records:,} records in {len(manifest.shards):,} shards, {size / 1e9:.2f} GB, "
        f"{skipped:,} skipped{f' ({reasons})' if reasons else ''}{noted}"
    )


class _Progress:
    """A bar on a terminal; otherwise a line every few seconds."""

    def __init__(self) -> None:
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
        )

        self._is_terminal = sys.stdout.isatty()
        self._bar = Progress(
            TextColumn("prepare"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
            disable=not self._is_terminal,
        )
        self._task = self._bar.add_task("", total=None, note="")
        self._first: tuple[float, int] | None = None
        self._last_line = 0.0

    def __enter__(self) -> _Progress:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def show(self, progress: Progress) -> None:
        """Shows the progress; called after each record."""
        done, total, skipped = progress
        self._bar.update(self._task, completed=done, total=total, note=f"{skipped} skipped")
        now = time.monotonic()
        if self._first is None:
            self._first, self._last_line = (now, done), now
        if self._is_terminal or now - self._last_line < _SECONDS_BETWEEN_LINES:
            return
        self._last_line = now
        began, before = self._first
        rate = (done - before) / (now - began)
        left = timedelta(seconds=round((total - done) / rate) if rate else 0)
        print(
            f"{done:,} of {total:,} records, {skipped:,} skipped, {rate:.0f} a second, {left} left",
            flush=True,
        )


if __name__ == "__main__":
    cli.run(main)
