"""Memory of a training step, by remat policy and by the tile of the loss.

    python benchmarks/step_memory.py [--width=256] [--layers=8] [--length=128] [--rows=2]

Compiles the stage 2 step of benchmarks/train_step.py with a vocabulary of 32,000 for this machine
and does not run it: the compiler reports the memory besides weights and batch. On a CPU, attention
is XLA's, and only "none" and "dots" keep its scores.
"""

from __future__ import annotations

import dataclasses
from functools import partial

import flax.linen as nn
import jax
from _timing import describe_device, small_model
from absl import flags
from train_step import RECIPES, RULES, make_batch

from owl_jax import cli
from owl_jax.models.compute import Compute
from owl_jax.models.vlm import init_params
from owl_jax.training.objectives.next_token import next_token
from owl_jax.training.optimizer import make_optimizer
from owl_jax.training.partition import assign, split
from owl_jax.training.state import new_state
from owl_jax.training.step import make_step

FORMS = {
    "everything kept": Compute(remat="none"),
    "dots": Compute(remat="dots"),
    "minimal": Compute(remat="minimal"),
    "query, key, value, context": Compute(remat="save:query,key,value,context"),
    "context": Compute(remat="save:context"),
    "full": Compute(remat="full"),
    "full, loss by 128": Compute(remat="full", loss_tile=128),
    "full, loss by 32": Compute(remat="full", loss_tile=32),
}


def main(argv: list[str]) -> None:
    """Prints one table."""
    del argv
    config = small_model(flags.FLAGS.width, flags.FLAGS.layers)
    config = dataclasses.replace(config, llm=dataclasses.replace(config.llm, vocab_size=32_000))
    boxed = jax.eval_shape(partial(init_params, config, Compute()), jax.random.key(0))
    shapes = nn.meta.unbox(boxed)
    labels = assign(shapes, RULES, set(RECIPES))
    trainable, frozen = split(shapes, labels)
    optimizer = make_optimizer(RECIPES, split(labels, labels)[0], 1_000, clip_norm=1.0)
    state = jax.eval_shape(partial(new_state, optimizer=optimizer), trainable)
    batch = make_batch(config, flags.FLAGS.rows, flags.FLAGS.length)

    print(f"Decoder of {flags.FLAGS.layers} x {flags.FLAGS.width}, {describe_device()}")
    print(f"\nStage 2 step, {flags.FLAGS.rows} sequences of {flags.FLAGS.length} tokens")
    print(f"{'':<28}{'temporaries':>14}{'ratio':>8}")
    baseline = None
    for name, compute in FORMS.items():
        step = jax.jit(make_step(next_token(config, compute), optimizer, seed=0))
        size = step.lower(state, frozen, batch).compile().memory_analysis().temp_size_in_bytes
        baseline = baseline or size
        print(f"{name:<28}{size / 1e6:>11.1f} MB{size / baseline:>8.2f}")


if __name__ == "__main__":
    cli.run(main)
