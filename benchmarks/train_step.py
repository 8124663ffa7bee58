"""Time of a training step, with layers scanned or unrolled, and with rematerialisation.

    python benchmarks/train_step.py [--width=256] [--layers=8] [--length=128] [--rows=2]

A stage 2 step (LoRA and abstractor trained, everything else frozen), float32, one image a sequence,
optimizer included. The first run is mostly compilation, which scanning shortens. "full" and
"minimal" are remat policies (models/remat.py).
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
from owl_jax.data.batch import Batch, Example, SequenceShape, collate
from owl_jax.models.compute import Compute
from owl_jax.models.config import OwlConfig
from owl_jax.models.vlm import init_params
from owl_jax.training.objectives.next_token import next_token
from owl_jax.training.optimizer import Recipe, make_optimizer
from owl_jax.training.partition import assign, split
from owl_jax.training.state import new_state
from owl_jax.training.step import make_step

_WIDTH = flags.DEFINE_integer("width", 256, "of the language model", lower_bound=64)
_LAYERS = flags.DEFINE_integer("layers", 8, "of the language model", lower_bound=1)
_LENGTH = flags.DEFINE_integer("length", 128, "tokens of a sequence", lower_bound=32)
_ROWS = flags.DEFINE_integer("rows", 2, "of a batch", lower_bound=1)
_ROUNDS = flags.DEFINE_integer("rounds", 5, "timings of each form", lower_bound=1)

FORMS = {
    "scanned": Compute(),
    "unrolled": Compute(scan_layers=False),
    "scanned, remat minimal": Compute(remat="minimal"),
    "scanned, remat full": Compute(remat="full"),
}
RULES = (("(lora|connector)/.*", "adapter"), ("(vision|llm)/.*", "frozen"))
RECIPES = {"adapter": Recipe(learning_rate=1e-4)}


def make_batch(config: OwlConfig, rows: int, length: int) -> Batch:
    """Sequences of one image and random tokens, half of them supervised."""
    random = np.random.default_rng(0)
    size = config.vision.image_size
    shape = SequenceShape(length, config.media_lengths(), size, image_slots=1)

    def example() -> Example:
        ids = random.integers(3, config.llm.vocab_size, length + 1).astype(np.int32)
        ids[1 : 1 + config.num_tokens("image")] = -1
        image = random.integers(0, 256, (1, size, size, 3)).astype(np.uint8)
        return Example(ids, np.arange(length + 1) > length // 2, image, image[:0])

    return collate([[example()] for _ in range(rows)], shape)


def main(argv: list[str]) -> None:
    """Prints one table."""
    del argv
    config = small_model(_WIDTH.value, _LAYERS.value)
    stacked = nn.meta.unbox(jax.jit(partial(init_params, config, Compute()))(jax.random.key(0)))
    batch = jax.device_put(make_batch(config, _ROWS.value, _LENGTH.value))

    labels = assign(stacked, RULES, set(RECIPES))
    trainable, frozen = split(stacked, labels)
    optimizer = make_optimizer(RECIPES, split(labels, labels)[0], 1_000, clip_norm=1.0)
    state = new_state(trainable, optimizer)

    def ready(step: Callable[..., Any]) -> Callable[[], Any]:
        return partial(step, state, frozen, batch)

    contestants = {}
    for name, compute in FORMS.items():
        step = jax.jit(make_step(next_token(config, compute), optimizer, seed=0))
        contestants[name] = partial(ready, step)

    print(f"Decoder of {_LAYERS.value} x {_WIDTH.value}, {describe_device()}")
    title = f"Stage 2 step, {_ROWS.value} sequences of {_LENGTH.value} tokens"
    print_table(title, "step", take_turns(contestants, _ROUNDS.value))


if __name__ == "__main__":
    cli.run(main)
