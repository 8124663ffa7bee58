"""Helps a run start: times the phases, caches compiled programs, reports memory."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import jax

from owl_jax.errors import printable

FILE_NAME = "start_up.json"
COMMAND_FILE = "command.txt"  # the command that started or resumed the run last
CACHE = "compilation_cache"  # in the workdir


class StartUp:
    """Times the phases of a start, in seconds."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Times the block."""
        start = time.monotonic()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.monotonic() - start

    def write(self, workdir: Path) -> None:
        """Writes WORKDIR/start_up.json, {phase: seconds}; replaces an earlier one."""
        text = json.dumps({name: round(value, 3) for name, value in self.seconds.items()}, indent=2)
        (workdir / FILE_NAME).write_text(f"{text}\n", encoding="utf-8")

    def __str__(self) -> str:
        phases = ", ".join(f"{name} {value:.1f}" for name, value in self.seconds.items())
        return f"started in {sum(self.seconds.values()):.1f} s: {phases}"


def say(text: str) -> None:
    """Prints text that may contain untrusted parts, on process 0 only."""
    if jax.process_index() == 0:
        print(printable(text, keep="\n"), flush=True)


def keep_compiled(workdir: Path) -> None:
    """Caches compiled programs in the workdir, unless JAX_COMPILATION_CACHE_DIR is set."""
    if jax.config.values["jax_compilation_cache_dir"] is None:
        jax.config.update("jax_compilation_cache_dir", str(workdir / CACHE))


def memory(compiled: jax.stages.Compiled) -> str:
    """The memory use of a compiled step per device, as text."""
    stats = compiled.memory_analysis()
    assert stats is not None  # CPU, GPU and TPU have it
    kept = stats.argument_size_in_bytes + stats.output_size_in_bytes - stats.alias_size_in_bytes
    total = kept + stats.temp_size_in_bytes + stats.generated_code_size_in_bytes
    return (
        f"the step takes {total / 1e9:.2f} GB of each device: {kept / 1e9:.2f} state, frozen "
        f"weights and batch, {stats.temp_size_in_bytes / 1e9:.2f} temporaries"
    )
