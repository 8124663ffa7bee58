"""Converts and loads full-size weights on a small machine, and compares the time with `cp`.

    python benchmarks/full_size.py            # the 7B with two layers: 2 GB, a minute
    python benchmarks/full_size.py --full     # 14.5 GB, and four times that on the disk

Creates an mPLUG-Owl of random bfloat16 weights with the released names and shapes, and deletes it
at the end. Each step runs in its own process, whose peak resident memory is printed. Times are
ratios to `cp -r` of the same directory, in the same run, on the same disk.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import ml_dtypes
import numpy as np
from absl import flags
from PIL import Image

from owl_jax import cli
from owl_jax.checkpoint import huggingface
from owl_jax.checkpoint.hf_import import abstract_params
from owl_jax.checkpoint.safetensors_writer import write_shards
from owl_jax.checkpoint.tensors import Outgoing, to_source
from owl_jax.models.families.mplug_owl import MPLUG_OWL, VARIANTS

TOKENIZER = Path(__file__).parents[1] / "configs" / "demo" / "tokenizer"


_FULL = flags.DEFINE_bool("full", False, "all layers of the language model")
_VARIANT = flags.DEFINE_enum("variant", "llama", sorted(VARIANTS), "the released variant")
_STEPS = flags.DEFINE_list("steps", ["convert", "load"], "what to measure")
_DIRECTORY = flags.DEFINE_string("directory", None, "for the weights; a temporary one by default")


def main(argv: list[str]) -> None:
    """Creates the model, prints a line for each step, deletes everything."""
    del argv
    with tempfile.TemporaryDirectory(dir=_DIRECTORY.value) as folder:
        run(Path(folder), _VARIANT.value, _FULL.value)


def run(folder: Path, variant: str, full: bool) -> None:
    source = folder / "model"
    nbytes = make_model(source, variant, full)
    print(f"weights: {nbytes / 1e9:.2f} GB in {len(list(source.glob('*.safetensors')))} files")
    os.sync()
    copy, _ = timed("cp", "-r", str(source), str(folder / "copy"))
    shutil.rmtree(folder / "copy")
    print(
        f"cp -r: {copy:.1f} s\n{'step':<28}{'x cp':>8}{'peak GB':>10}{'x weights':>11}", flush=True
    )
    if "convert" in _STEPS.value:
        convert(folder, source, copy, nbytes)
    if "load" in _STEPS.value:
        load(folder, source, copy, nbytes)


def convert(folder: Path, source: Path, copy: float, nbytes: int) -> None:
    """Converts to Orbax and back; the files must be identical."""
    module = (sys.executable, "-m", "owl_jax.convert")
    for name, start, end, form in (
        ("Hugging Face -> Orbax", source, folder / "orbax", "orbax"),
        ("Orbax -> Hugging Face", folder / "orbax", folder / "back", "huggingface"),
    ):
        os.sync()
        seconds, peak = timed(*module, f"--source={start}", f"--target={end}", f"--format={form}")
        row(name, seconds / copy, peak, nbytes)
    different = [
        path.name
        for path in sorted(source.glob("*.safetensors"))
        if subprocess.run(["cmp", "-s", path, folder / "back" / path.name]).returncode
    ]
    print("written back: " + (f"{different} DIFFER" if different else "bit-equal"))
    for name in ("orbax", "back"):
        shutil.rmtree(folder / name)


def load(folder: Path, source: Path, copy: float, nbytes: int) -> None:
    """In each dtype, loads the model, and loads it and answers a question about an image."""
    picture = folder / "picture.png"
    pixels = np.arange(224 * 224 * 3, dtype=np.uint8).reshape(224, 224, 3)
    Image.fromarray(pixels).save(picture)
    question = (f"--model={source}", f"--image={picture}", "--prompt=What is it?")
    for dtype in ("bfloat16", "int8"):
        seconds, peak = timed(sys.executable, "-c", LOAD, str(source), dtype)
        row(f"load, {dtype}", seconds / copy, peak, nbytes)
        options = ("--max_new_tokens=4", f"--dtype={dtype}")
        seconds, peak = timed(sys.executable, "-m", "owl_jax.chat", *question, *options)
        row(f"load and answer, {dtype}", seconds / copy, peak, nbytes)


LOAD = "import sys, owl_jax; owl_jax.load(sys.argv[1], dtype=sys.argv[2])"


def make_model(directory: Path, variant: str, full: bool) -> int:
    """Writes a model of random weights; returns their size in bytes."""
    config = VARIANTS[variant]
    if not full:
        config = dataclasses.replace(config, llm=dataclasses.replace(config.llm, num_layers=2))
    directory.mkdir()
    huggingface.write_config(config, directory, "bfloat16")
    shutil.copy(TOKENIZER / "tokenizer.model", directory)
    tensors = list(_random(to_source(MPLUG_OWL.weight_rows(config), abstract_params(config))))
    write_shards(tensors, directory)
    return sum(tensor.nbytes for tensor in tensors)


def _random(tensors: list[Outgoing]) -> Iterator[Outgoing]:
    generator = np.random.Generator(np.random.SFC64(0))
    for tensor in tensors:

        def read(shape: tuple[int, ...] = tensor.shape) -> np.ndarray:
            # Random bits, masked to numbers below 0.03 of either sign.
            bits = np.frombuffer(generator.bytes(2 * int(np.prod(shape))), np.uint16)
            return (bits & 0x83FF | 0x3C00 - 0x0100).view(ml_dtypes.bfloat16).reshape(shape)

        yield Outgoing(tensor.name, tensor.shape, np.dtype(ml_dtypes.bfloat16), read)


def timed(*command: str) -> tuple[float, float]:
    """Runs a command; returns (seconds, peak resident GB). Ends the benchmark if it fails."""
    start = time.monotonic()
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        sys.exit(f"{' '.join(command)} ended with {child.returncode}")
    return time.monotonic() - start, usage.ru_maxrss * 1024 / 1e9


def row(name: str, ratio: float, peak: float, nbytes: int) -> None:
    print(f"{name:<28}{ratio:>8.2f}{peak:>10.2f}{peak * 1e9 / nbytes:>11.2f}", flush=True)


if __name__ == "__main__":
    cli.run(main)
