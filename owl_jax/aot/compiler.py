"""Compiles a lowered program for its topology and returns its memory use."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from typing import Any

import jax
from jax.errors import JaxRuntimeError

from owl_jax.errors import UserError

_QUICK = {"optimization_level": 9}  # XLA's O0
_GIB = 2**30


@dataclass(frozen=True)
class Memory:
    """HBM bytes on one device, as the compiler reports them.

    aliased: outputs that reuse donated arguments. program: the program's code.
    """

    arguments: int
    outputs: int
    temporaries: int
    aliased: int
    program: int

    @property
    def peak(self) -> int:
        """Bytes that the program needs while it runs."""
        return self.arguments + self.outputs - self.aliased + self.temporaries + self.program


@dataclass(frozen=True)
class Compiled:
    """A compiled program. text: its HLO.

    memory: None if the program does not fit; refused: then the bytes in the compiler's error.
    """

    seconds: float
    memory: Memory | None = None
    text: str = ""
    refused: int = 0


def compile_program(
    lowered: jax.stages.Lowered, quick: bool = False, options: Mapping[str, Any] | None = None
) -> Compiled:
    """Compiles a program. Raises UserError for an unknown compiler option.

    quick: optimisation level O0: same work, nearly the same memory, useless for time estimates.
    options: XLA's, such as {"xla_tpu_scoped_vmem_limit_kib": "65536"}.
    """
    start = time.perf_counter()
    try:
        compiled = lowered.compile(compiler_options=(_QUICK if quick else {}) | dict(options or {}))
    except JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" in str(error):
            return Compiled(time.perf_counter() - start, refused=_needed(str(error)))
        if options and "INVALID_ARGUMENT" in str(error):
            raise UserError(f"compiler options: {error}") from error
        raise
    seconds = time.perf_counter() - start
    found, text = compiled.memory_analysis(), compiled.as_text()
    assert found is not None and text is not None  # a TPU's program has both
    memory = Memory(
        arguments=found.argument_size_in_bytes,
        outputs=found.output_size_in_bytes,
        temporaries=found.temp_size_in_bytes,
        aliased=found.alias_size_in_bytes,
        program=found.generated_code_size_in_bytes,
    )
    return Compiled(seconds, memory, text)


def versions() -> dict[str, str]:
    """The versions that the compiled program depends on."""
    return {name: metadata.version(name) for name in ("jax", "libtpu")}


def _needed(message: str) -> int:
    """The bytes in a refusal: "(42.93G)" or "Used 20.32G of 15.75G hbm"."""
    match = re.search(r"\(([\d.]+)G\)|Used ([\d.]+)G of", message)
    return int(float(match[1] or match[2]) * _GIB) if match else 0
