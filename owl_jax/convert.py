"""Weights from one form to another, tensor by tensor, so that any model fits any machine.

    python -m owl_jax.convert --source=DIR --target=DIR --format=huggingface|orbax|peft

A source is a released mPLUG-Owl or its parts as Hugging Face has them (CLIP's vision tower, a plain
LLaMA or BLOOM; safetensors or pytorch_model*.bin), a directory that owl_jax wrote, or, with --base,
an adapter. `huggingface` is the released models' form and merges an adapter, `orbax` is owl_jax's
own, `peft` is the adapter alone.
"""

from __future__ import annotations

import math
import resource
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags

from owl_jax import cli
from owl_jax.errors import UserError

SOURCE = flags.DEFINE_string("source", None, "directory to read", required=True)
TARGET = flags.DEFINE_string("target", None, "directory to write, new or empty", required=True)
FORMAT = flags.DEFINE_enum(
    "format", None, ["huggingface", "orbax", "peft"], "of the target", required=True
)
MERGE_ADAPTER = flags.DEFINE_string(
    "merge_adapter", None, "directory of a LoRA adapter to merge into the language model"
)
BASE = flags.DEFINE_string("base", None, "where the source is an adapter: the model it belongs to")
ANY_BASE = flags.DEFINE_bool("any_base", False, "take an adapter though it has another base")
DTYPE = flags.DEFINE_enum(
    "dtype", None, ["bfloat16", "float16", "float32"], "of the target; by default the source's"
)


def main(_: list[str]) -> None:
    """Opens the source, writes the target, and says what that was."""
    # Imported here, since they import JAX, which --help can do without.
    import jax

    from owl_jax.checkpoint.model_directory import save_model
    from owl_jax.checkpoint.stored import Cast

    start = time.monotonic()
    source, target = Path(SOURCE.value), Path(TARGET.value)
    config, params, base, opened = _open(source)
    if DTYPE.value is not None:
        params = jax.tree.map(lambda leaf: Cast(leaf, DTYPE.value), params)
    written = {"orbax": {*params}, "peft": {"lora"}, "huggingface": {*params} - {"lora"}}
    kept = {name: params[name] for name in params if name in written[FORMAT.value]}
    leaves = jax.tree.leaves(kept)
    sizes = [math.prod(leaf.shape) for leaf in leaves]
    nbytes = sum(n * np.dtype(leaf.dtype).itemsize for n, leaf in zip(sizes, leaves, strict=True))
    with _Bar(nbytes) as bar:
        save_model(
            target, config, params, FORMAT.value, source, base, opened.as_trained, bar.advance
        )
    opened.tell(source)
    seconds = time.monotonic() - start
    dtypes = ", ".join(sorted({str(leaf.dtype) for leaf in leaves}))
    # Linux counts it in kilobytes.
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    cli.say(
        f"{target} ({FORMAT.value}): {len(leaves)} tensors, {sum(sizes):,} parameters, "
        f"{nbytes / 1e9:.2f} GB of {dtypes}, {seconds:.1f} s, peak memory {peak / 1e9:.2f} GB"
    )


def _open(source: Path) -> tuple[Any, dict[str, Any], Any, Any]:
    """(config, params, base of the adapter, what was opened) of the source as the flags ask."""
    from owl_jax.checkpoint import model_directory
    from owl_jax.checkpoint.adapter import CONFIG_FILE, merge_stored
    from owl_jax.checkpoint.base import Base, read_base

    if not source.is_dir():
        raise UserError(f"{source}: no such directory")
    if (source / CONFIG_FILE).exists():
        if FORMAT.value == "huggingface" or MERGE_ADAPTER.value is not None:
            raise UserError(
                f"{source} is an adapter: merge it with --source=MODEL --merge_adapter={source}"
            )
        if BASE.value is None:
            raise UserError(
                f"{source} is an adapter: name its model with --base=DIR, or merge it with "
                f"--source=MODEL --merge_adapter={source}"
            )
        opened = model_directory.open_model(Path(BASE.value))
        base = read_base(source) or Base.of(BASE.value, opened.params["llm"])
        opened = model_directory.add_adapter(opened, Path(BASE.value), source, ANY_BASE.value)
        return opened.config, {"lora": opened.params["lora"]}, base, opened
    if BASE.value is not None:
        raise UserError(f"--base={BASE.value} goes with an adapter; {source} is none")
    opened = model_directory.open_any(source)
    config, params = opened.config, opened.params
    if MERGE_ADAPTER.value is not None:
        adapter = Path(MERGE_ADAPTER.value)
        opened = model_directory.add_adapter(opened, source, adapter, ANY_BASE.value)
        assert opened.config.lora is not None
        llm = merge_stored(params["llm"], opened.params["lora"], opened.config.lora)
        params = {**params, "llm": llm}
    return config, params, read_base(source), opened


class _Bar:
    """A progress bar on a terminal, and nothing otherwise."""

    def __init__(self, total: int):
        from rich.progress import (
            BarColumn,
            DownloadColumn,
            Progress,
            TimeRemainingColumn,
            TransferSpeedColumn,
        )

        self._progress = Progress(
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
            disable=not sys.stdout.isatty(),
        )
        self._task = self._progress.add_task("", total=total)

    def __enter__(self) -> _Bar:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def advance(self, nbytes: int) -> None:
        self._progress.update(self._task, advance=nbytes)


if __name__ == "__main__":
    cli.run(main)
