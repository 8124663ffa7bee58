"""Side-by-side timing, and the model, for the other benchmarks.

The contestants take turns, so other load on the machine affects them alike, and ratios within a
round are more reliable than times. Weights are random, because speed does not depend on them.
"""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable, Mapping
from statistics import median
from typing import Any

import jax

from owl_jax.models.config import OwlConfig
from owl_jax.models.connectors.abstractor import AbstractorConfig
from owl_jax.models.language.llama import LlamaConfig
from owl_jax.models.lora import LoraConfig
from owl_jax.models.vision.clip import ClipConfig


def small_model(width: int, layers: int) -> OwlConfig:
    """An mPLUG-Owl with a language model of this size, and a vision tower half as wide and deep."""
    half, depth = width // 2, max(layers // 2, 1)
    return OwlConfig(
        vision=ClipConfig(56, 14, half, 4 * half, num_layers=depth, num_heads=4),
        connector=AbstractorConfig(16, half, 2 * half, num_layers=depth, num_heads=4),
        llm=LlamaConfig(
            vocab_size=8_000,
            hidden_size=width,
            intermediate_size=width * 11 // 4,
            num_layers=layers,
            num_heads=8,
            num_kv_heads=8,
        ),
        lora=LoraConfig(dropout=0.0),
    )


def take_turns(
    contestants: Mapping[str, Callable[[], Callable[[], Any]]],
    rounds: int,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, tuple[float, list[float]]]:
    """Times each contestant once in every round.

    contestants: name -> function that prepares a run, untimed, and returns the function to time.
      The time ends when its arrays are ready.
    clock: seconds; `time.process_time` counts CPU time, which depends less on other load.

    Returns: name -> (seconds of the first run, which compiles; seconds of each later round).
    """
    first = {name: _seconds(prepare(), clock) for name, prepare in contestants.items()}
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(rounds):
        for name, prepare in contestants.items():
            times[name].append(_seconds(prepare(), clock))
    return {name: (first[name], times[name]) for name in contestants}


def print_table(
    title: str, unit: str, results: Mapping[str, tuple[float, list[float]]], per: int = 1
) -> None:
    """Prints a line for each contestant; the ratios are to the first one, round by round.

    unit: name of the items of a run; there are `per` in each.
    """
    print(f"\n{title}")
    print(f"{'':<24}{'first run':>12}{f'ms / {unit}':>14}{'ratio':>8}{'lowest':>9}{'highest':>9}")
    _, baseline = next(iter(results.values()))
    for name, (first, times) in results.items():
        ratios = sorted(t / b for t, b in zip(times, baseline, strict=True))
        print(
            f"{name:<24}{first:>10.1f} s{1000 * median(times) / per:>14.1f}"
            f"{median(ratios):>8.2f}{ratios[0]:>9.2f}{ratios[-1]:>9.2f}"
        )


def describe_device() -> str:
    """JAX's version and the devices."""
    device = jax.devices()[0]
    return f"jax {jax.__version__}, {len(jax.devices())} x {device.device_kind}"


def missing(*modules: str) -> str:
    """A message that names the modules that are not installed; "" if all are."""
    absent = [name for name in modules if importlib.util.find_spec(name) is None]
    return f"{', '.join(absent)} not installed" if absent else ""


def _seconds(run: Callable[[], Any], clock: Callable[[], float]) -> float:
    start = clock()
    jax.block_until_ready(run())
    return clock() - start
