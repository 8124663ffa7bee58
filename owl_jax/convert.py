"""Converts weights between formats, tensor by tensor, so that a large model needs little memory.

    python -m owl_jax.convert --source=DIR --target=DIR --format=huggingface|orbax|peft
        [--push=ORG/NAME]
    python -m owl_jax.convert --source=DIR --verify

The source is a released mPLUG-Owl or a part in Hugging Face's format (CLIP's or SigLIP's vision
tower, a plain LLaMA or BLOOM; safetensors or pytorch_model*.bin), a directory that owl_jax wrote,
or, with --base, an adapter. `huggingface` is the released models' format and merges an adapter,
`orbax` is owl_jax's own and does so with --merge, `peft` is the adapter only. --parts names files
with parts of your own. --verify compares every file of the source with its SHA256SUMS before
converting it; without a target, it does nothing else. A model that is read may also be one of
Hugging Face's hub, ORG/NAME[@REVISION]. --push uploads the target there, with a card.
"""

from __future__ import annotations

import math
import resource
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from absl import flags

from owl_jax import cli
from owl_jax.errors import UserError, printable
from owl_jax.files import is_directory
from owl_jax.hub.names import HubName, recorded_name

if TYPE_CHECKING:
    from owl_jax.models.config import OwlConfig

SOURCE = flags.DEFINE_string(
    "source", None, "directory to read, or ORG/NAME[@REVISION] on the hub", required=True
)
TARGET = flags.DEFINE_string("target", None, "directory to write, new or empty")
FORMAT = flags.DEFINE_enum("format", None, ["huggingface", "orbax", "peft"], "format of the target")
VERIFY = flags.DEFINE_bool(
    "verify", False, "compare the source with its SHA256SUMS; without --target, only that"
)
MERGE = flags.DEFINE_bool("merge", False, "merge the source's own adapter into its language model")
MERGE_ADAPTER = flags.DEFINE_string(
    "merge_adapter", None, "a LoRA adapter to merge into the language model, named like a source"
)
BASE = flags.DEFINE_string(
    "base", None, "the model of the adapter, if the source is an adapter; named like a source"
)
ANY_BASE = flags.DEFINE_bool("any_base", False, "accept an adapter of another base")
DTYPE = flags.DEFINE_enum(
    "dtype",
    None,
    ["bfloat16", "float16", "float32"],
    "dtype of the target; by default the source's",
)

PARTS = cli.define_parts_flag()
PUSH = flags.DEFINE_string(
    "push", None, "ORG/NAME on the hub, to upload the target to with a card; needs a token"
)
PRIVATE = flags.DEFINE_bool(
    "private", None, "whether --push makes a private repository; by default what the hub does"
)


@flags.multi_flags_validator(
    ["target", "format", "verify"],
    "give both --target and --format; only --verify works without them",
)
def _has_a_target(values: Mapping[str, Any]) -> bool:
    given = [values[name] is not None for name in ("target", "format")]
    return all(given) or (values["verify"] and not any(given))


@flags.multi_flags_validator(["target", "push"], "--push uploads a target; give --target too")
def _has_what_it_pushes(values: Mapping[str, Any]) -> bool:
    return values["push"] is None or values["target"] is not None


@flags.multi_flags_validator(["push", "private"], "--private has no meaning without --push")
def _has_where_to_push(values: Mapping[str, Any]) -> bool:
    return values["private"] is None or values["push"] is not None


def main(_: list[str]) -> None:
    """Opens the source, writes the target, and prints a summary."""
    if VERIFY.value:
        for directory in (SOURCE, BASE, MERGE_ADAPTER):
            if directory.value is not None:
                _verify(_directory(directory))
        if TARGET.value is None:
            return
    _convert()


def _verify(directory: Path) -> None:
    from owl_jax.checkpoint.checksums import verify

    name = printable(recorded_name(directory))
    print(f"{name}: OK, as listed: {verify(directory)}", flush=True)


def _convert() -> None:
    # Imported here because they import JAX, which --help does not need.
    import jax

    from owl_jax.checkpoint.atomic_directory import check_free
    from owl_jax.checkpoint.checksums import CARD
    from owl_jax.checkpoint.lazy_arrays import Cast
    from owl_jax.checkpoint.model_directory import save_model
    from owl_jax.hub.push import open_repository, push
    from owl_jax.models.own_parts import add_parts

    add_parts(PARTS.value)
    start = time.monotonic()
    source = _directory(SOURCE)
    target_format = FORMAT.value or ""
    target = Path(TARGET.value or "")
    check_free(target)
    config, params, base, opened = _open(source)
    if DTYPE.value is not None:
        params = jax.tree.map(lambda leaf: Cast(leaf, DTYPE.value), params)
    written = {"orbax": {*params}, "peft": {"lora"}, "huggingface": {*params} - {"lora"}}
    kept = {name: params[name] for name in params if name in written[target_format]}
    leaves = jax.tree.leaves(kept)
    sizes = [math.prod(leaf.shape) for leaf in leaves]
    nbytes = sum(n * np.dtype(leaf.dtype).itemsize for n, leaf in zip(sizes, leaves, strict=True))
    card = ""
    if PUSH.value is not None:
        repository = open_repository(PUSH.value, PRIVATE.value)  # before the work of hours
        card = _card(repository, config, params, source, base)
    with _Bar(nbytes) as bar:
        save_model(
            target, config, params, target_format, source, base, opened.as_trained, bar.advance
        )
    opened.print_notes(source)
    seconds = time.monotonic() - start
    dtypes = ", ".join(sorted({str(leaf.dtype) for leaf in leaves}))
    # ru_maxrss is in kilobytes on Linux.
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    cli.say(
        f"{target} ({target_format}): {len(leaves)} tensors, {sum(sizes):,} parameters, "
        f"{nbytes / 1e9:.2f} GB of {dtypes}, {seconds:.1f} s, peak memory {peak / 1e9:.2f} GB"
    )
    if PUSH.value is not None:
        (target / CARD).write_text(card, encoding="utf-8")
        cli.say(f"uploading {target} to {repository}")
        try:
            cli.say(push(target, repository, f"Upload of owl_jax ({target_format})"))
        except UserError as error:
            raise UserError(
                f"{error}; {target} is complete, and `hf upload {repository} {target}` uploads it"
            ) from None


def _card(
    repository: HubName, config: OwlConfig, params: Mapping[str, Any], source: Path, base: Any
) -> str:
    """The card of the target. base: of the adapter, or None."""
    import jax

    from owl_jax.checkpoint.hub_directory import model_directory
    from owl_jax.hub.card import Described, model_card
    from owl_jax.hub.training_run import read_run

    run = read_run(source)
    bases = {} if run else {"source": recorded_name(source)}
    if base is not None:
        bases["base of the adapter"] = base.name
    if MERGE_ADAPTER.value is not None:
        bases["adapter"] = recorded_name(model_directory(MERGE_ADAPTER.value))
    kinds = {name: part.architecture for name, part in config.parts.items()}
    if config.lora is not None:
        kinds["lora"] = f"rank {config.lora.rank}, on {', '.join(config.lora.targets)}"
    counts = {
        name: sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params[name]))
        for name in params
    }
    parts = {
        name: f"{kind}, {counts[name]:,} parameters" if name in counts else kind
        for name, kind in kinds.items()
    }
    return model_card(
        Described(
            repository.repo,
            parts,
            is_adapter=FORMAT.value == "peft",
            is_merged=MERGE_ADAPTER.value is not None,
            text_only=config.text_only,
            bases={what: name for what, name in bases.items() if name},
            run=run,
            commands=[*([run.command] if run and run.command else []), cli.command_line()],
        )
    )


def _directory(flag: flags.FlagHolder[str | None]) -> Path:
    """The directory that a flag names, here or on the hub. Raises UserError if there is none."""
    path = _named(flag)
    if not is_directory(path):
        raise UserError(f"{path}: no such directory")
    return path


def _named(flag: flags.FlagHolder[str | None]) -> Path:
    """The path that a flag names, here or, then downloaded, on the hub."""
    from owl_jax.checkpoint.hub_directory import model_directory
    from owl_jax.hub.snapshot import tell_if_ambiguous

    name = flag.value or ""
    tell_if_ambiguous(name)
    return model_directory(name, whole=VERIFY.value)


def _open(source: Path) -> tuple[Any, dict[str, Any], Any, Any]:
    """Opens the source as the flags ask: (config, params, base of the adapter, Opened)."""
    from owl_jax.checkpoint import model_directory
    from owl_jax.checkpoint.adapter_base import Base, read_base
    from owl_jax.checkpoint.schema import ADAPTER_FILE

    if (source / ADAPTER_FILE).exists():
        if FORMAT.value == "huggingface" or MERGE.value or MERGE_ADAPTER.value is not None:
            raise UserError(
                f"{source} is an adapter: merge it with --source=MODEL --merge_adapter={source}"
            )
        if BASE.value is None:
            raise UserError(
                f"{source} is an adapter: name its model with --base=DIR, or merge it with "
                f"--source=MODEL --merge_adapter={source}"
            )
        model = _directory(BASE)
        opened = model_directory.open_model(model)
        base = read_base(source) or Base.of(recorded_name(model), opened.params["llm"])
        opened = model_directory.add_adapter(opened, model, source, ANY_BASE.value)
        return opened.config, {"lora": opened.params["lora"]}, base, opened
    if BASE.value is not None:
        raise UserError(f"--base={BASE.value} needs an adapter as source; {source} is not one")
    opened = model_directory.open_any(source)
    recorded = None if MERGE.value else read_base(source)
    if MERGE.value:
        opened = model_directory.merge_adapter(opened, source)
    if MERGE_ADAPTER.value is not None:
        adapter = _named(MERGE_ADAPTER)
        opened = model_directory.add_adapter(opened, source, adapter, ANY_BASE.value)
        opened = model_directory.merge_adapter(opened, source)
    return opened.config, opened.params, recorded, opened


class _Bar:
    """A progress bar, on a terminal only."""

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
