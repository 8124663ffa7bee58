"""What a run does before its first step: how long each phase takes, and the compiler's cache."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import jax

from owl_jax.errors import printable

FILE_NAME = "start_up.json"
CACHE = "compilation_cache"  # in the workdir


class StartUp:
    """Times the phases of a start, in seconds."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Times what happens inside."""
        start = time.monotonic()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.monotonic() - start

    def write(self, workdir: Path) -> None:
        """Writes WORKDIR/start_up.json: {phase: seconds}, of the newest start."""
        text = json.dumps({name: round(value, 3) for name, value in self.seconds.items()}, indent=2)
        (workdir / FILE_NAME).write_text(f"{text}\n", encoding="utf-8")

    def __str__(self) -> str:
        phases = ", ".join(f"{name} {value:.1f}" for name, value in self.seconds.items())
        return f"started in {sum(self.seconds.values()):.1f} s: {phases}"


def say(text: str) -> None:
    """Prints what may hold text that is not ours, on the first of several processes."""
    if jax.process_index() == 0:
        print(printable(text, keep="\n"), flush=True)


def keep_compiled(workdir: Path) -> None:
    """Programs that took a second or more to compile are kept in the workdir for the next start.

    Not if JAX was told another place (JAX_COMPILATION_CACHE_DIR).
    """
    if jax.config.values["jax_compilation_cache_dir"] is None:
        jax.config.update("jax_compilation_cache_dir", str(workdir / CACHE))


def memory(compiled: jax.stages.Compiled) -> str:
    """What a compiled step takes of each device's memory, in words."""
    found = compiled.memory_analysis()
    assert found is not None  # of a CPU, GPU or TPU
    kept = found.argument_size_in_bytes + found.output_size_in_bytes - found.alias_size_in_bytes
    total = kept + found.temp_size_in_bytes + found.generated_code_size_in_bytes
    return (
        f"the step takes {total / 1e9:.2f} GB of each device: {kept / 1e9:.2f} state, frozen "
        f"weights and batch, {found.temp_size_in_bytes / 1e9:.2f} in between"
    )
