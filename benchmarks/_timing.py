"""Side-by-side timing for the scripts beside this file, and the model that they time.

The contestants take turns: what else the machine does falls on all of them alike, and a ratio of
two times of one round is worth more than either time. Weights are random: speed does not depend on
them.
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
    """An mPLUG-Owl whose language model has this size; what sees is half as wide and deep."""
    sees, depth = width // 2, max(layers // 2, 1)
    return OwlConfig(
        vision=ClipConfig(56, 14, sees, 4 * sees, num_layers=depth, num_heads=4),
        connector=AbstractorConfig(16, sees, 2 * sees, num_layers=depth, num_heads=4),
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

    contestants: name -> function that prepares a run, untimed, and returns what is timed. Its
      arrays are waited for.
    clock: seconds; `time.process_time` for those that this process's threads compute, which depend
      less on what else the machine does.

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

    unit: what one of the `per` things that a run does is called.
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
    """What the numbers were measured on."""
    device = jax.devices()[0]
    return f"jax {jax.__version__}, {len(jax.devices())} x {device.device_kind}"


def missing(*modules: str) -> str:
    """Those of these modules that are not installed, joined by commas, and that they are not."""
    absent = [name for name in modules if importlib.util.find_spec(name) is None]
    return f"{', '.join(absent)} not installed" if absent else ""


def _seconds(run: Callable[[], Any], clock: Callable[[], float]) -> float:
    start = clock()
    jax.block_until_ready(run())
    return clock() - start
