"""Time of a decoded token, with layers scanned over stacked weights or unrolled, and in bfloat16.

    python benchmarks/decode.py [--width=512] [--layers=8] [--prompt=64] [--tokens=32] [--rounds=7]

Owl.generate unrolls on a CPU and scans elsewhere (inference/core.py); this is the measurement
behind that choice. Greedy, after prefill. `bfloat16` has the form that Owl.generate uses, with
weights of that type; the others are float32.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from _timing import describe_device, print_table, small_model, take_turns
from absl import flags

from owl_jax import cli
from owl_jax.inference.core import (
    MAX_STEPS,
    decode_steps,
    make_rows,
    prefill,
    start_batch,
)
from owl_jax.inference.layouts import quickest_form
from owl_jax.inference.prompt import prompt_arrays, round_up
from owl_jax.inference.sampling import Sampling, row_keys
from owl_jax.models.compute import Compute
from owl_jax.models.stack import unstack
from owl_jax.models.vlm import init_params

_WIDTH = flags.DEFINE_integer("width", 512, "of the language model", lower_bound=64)
_LAYERS = flags.DEFINE_integer("layers", 8, "of the language model", lower_bound=1)
_PROMPT = flags.DEFINE_integer("prompt", 64, "tokens before the timed ones", lower_bound=1)
_TOKENS = flags.DEFINE_integer("tokens", 32, "timed in each round", lower_bound=1)
_ROUNDS = flags.DEFINE_integer("rounds", 7, "timings of each form", lower_bound=1)
_ROWS = flags.DEFINE_multi_integer(
    "rows", [1, 4], "sequences of a batch; may be given several times"
)


def main(argv: list[str]) -> None:
    """Prints a table for each batch size."""
    del argv
    config = small_model(_WIDTH.value, _LAYERS.value)
    stacked = nn.meta.unbox(jax.jit(partial(init_params, config, Compute()))(jax.random.key(0)))
    forms = {"scanned": (True, stacked), "unrolled": (False, jax.jit(unstack)(stacked))}
    narrow = jax.tree.map(lambda leaf: leaf.astype("bfloat16"), stacked)
    compute, narrow = quickest_form(Compute(), narrow)
    forms["bfloat16"] = (compute.scan_layers, narrow)
    until = 1 + _TOKENS.value  # prefill chooses the first token

    print(f"Decoder of {_LAYERS.value} x {_WIDTH.value}, {describe_device()}")
    for rows in _ROWS.value:
        ids = np.random.default_rng(0).integers(
            3, config.llm.vocab_size, (rows, _PROMPT.value), np.int32
        )
        prompt = prompt_arrays(config, ids)

        def ready(scan: bool, params: Any, prompt: Any = prompt) -> Callable[[], Any]:
            compute = Compute(scan_layers=scan)
            B = len(prompt.lengths)
            settings = [Sampling()] * B, row_keys(0, B), [[-1]] * B, [until] * B
            prefilled = prefill(config, compute, params, prompt)
            slots = round_up(prompt.input_ids.shape[1] + until)
            state, _ = start_batch(prefilled, prompt.lengths, make_rows(config, *settings), slots)
            jax.block_until_ready(state)

            def run() -> Any:
                after = state
                for done in range(0, _TOKENS.value, MAX_STEPS):
                    steps = min(MAX_STEPS, _TOKENS.value - done)
                    after, found = decode_steps(config, compute, params, after, steps)
                return found

            return run

        contestants = {name: partial(ready, *form) for name, form in forms.items()}
        title = f"Batch of {rows}, {_TOKENS.value} tokens after {_PROMPT.value}"
        print_table(title, "token", take_turns(contestants, _ROUNDS.value), _TOKENS.value)


if __name__ == "__main__":
    cli.run(main)
