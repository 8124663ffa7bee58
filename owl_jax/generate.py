"""Answers a file of requests with a model, without a server.

    python -m owl_jax.generate --model=DIR --input=requests.jsonl --output=answers.jsonl
        [--shard_index=I --num_shards=N]

Both files have OpenAI's batch form (docs/serving.md). A run that was interrupted continues where
it stopped if the same command is given again.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from absl import flags

from owl_jax import cli
from owl_jax.errors import UserError
from owl_jax.files import as_typed, open_regular
from owl_jax.serving import model_flags

if TYPE_CHECKING:
    from owl_jax.serving.batch import Progress

_INPUT = flags.DEFINE_string("input", None, "JSON Lines of requests", required=True)
_OUTPUT = flags.DEFINE_string(
    "output", None, "JSON Lines of answers; those that are there are kept", required=True
)
_INDEX = flags.DEFINE_integer(
    "shard_index", 0, "of this process, from 0 on: it answers every num_shards-th line"
)
_SHARDS = flags.DEFINE_integer(
    "num_shards", 1, "processes that share the work; each writes a file of its own"
)
_THREADS = flags.DEFINE_integer("threads", 4, "that decode media and tokenize", lower_bound=1)

GROUPS = {
    "files": (_INPUT, _OUTPUT, _INDEX, _SHARDS, _THREADS),
    "model": model_flags.MODEL,
    "engine": model_flags.ENGINE,
}
_TELL_EVERY = 10.0  # seconds


def main(argv: list[str]) -> None:
    """Answers what has no answer yet. Raises UserError if a request of the input is none."""
    del argv
    with model_flags.needs_packages():
        from owl_jax.serving.batch import Batch
        from owl_jax.serving.download import Downloads
        from owl_jax.serving.job import Planner
        from owl_jax.serving.settings import Settings
    name = model_flags.checked_name()
    if not 0 <= _INDEX.value < _SHARDS.value:
        raise UserError(
            f"--shard_index={_INDEX.value} --num_shards={_SHARDS.value}: expected 0 to "
            f"{max(_SHARDS.value, 1) - 1} of at least 1"
        )
    source = Path(as_typed(_INPUT.value))
    try:
        open_regular(source).close()
    except OSError as error:
        raise UserError(f"--input={_INPUT.value}: {error.strerror or error}") from None
    target = _own_target(Path(as_typed(_OUTPUT.value)))
    batch = Batch(source, target, _INDEX.value, _SHARDS.value)
    progress = batch.progress
    if progress.earlier:
        cli.say(f"{target} has {progress.earlier:,} of {progress.total:,} answers already")
    if progress.earlier == progress.total:
        return
    settings = Settings(temperature=model_flags.TEMPERATURE.value)
    start = time.monotonic()
    model = model_flags.load(name, max_waiting=progress.total * settings.limits.choices)
    cli.say(f"{name} is ready after {time.monotonic() - start:.0f} s")
    planner = Planner(
        model, settings, Downloads((), settings.download_bytes, settings.download_seconds)
    )
    try:
        batch.run(planner, _THREADS.value, _Teller())
    finally:
        model.engine.close()
    refused = sum(count for status, count in progress.statuses.items() if status != 200)
    cli.say(
        f"{progress.answered:,} answers with {progress.new_tokens:,} tokens, "
        f"{refused:,} of them errors: {target}"
    )


def _own_target(target: Path) -> Path:
    """The file of this process."""
    if _SHARDS.value == 1:
        return target
    part = f"{_INDEX.value:05d}-of-{_SHARDS.value:05d}"
    return target.with_name(f"{target.stem}-{part}{target.suffix}")


class _Teller:
    """Tells how far the run is, every few seconds."""

    def __init__(self) -> None:
        self._start = self._last = time.monotonic()

    def __call__(self, progress: Progress) -> None:
        now = time.monotonic()
        if now - self._last < _TELL_EVERY:
            return
        self._last, seconds = now, now - self._start
        left = progress.total - progress.earlier - progress.answered
        print(
            f"{progress.earlier + progress.answered:,} of {progress.total:,} answers, "
            f"{progress.new_tokens / seconds:,.0f} tokens/s, about "
            f"{left * seconds / progress.answered:,.0f} s left",
            file=sys.stderr,
        )


if __name__ == "__main__":
    cli.run(main, GROUPS)
