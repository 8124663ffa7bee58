"""A small model and its training step: what the tests of the step and of the meshes share.

Letters: B rows, L positions, V vocabulary.
"""

from __future__ import annotations

import dataclasses
import runpy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax

from owl_jax.checkpoint.hf_import import abstract_params
from owl_jax.data.batch import Batch, Example, SequenceShape, collate
from owl_jax.models.compute import Compute
from owl_jax.models.config import OwlConfig
from owl_jax.models.connectors.abstractor import AbstractorConfig
from owl_jax.models.connectors.owl2_abstractor import Owl2AbstractorConfig
from owl_jax.models.language.bloom import BloomConfig
from owl_jax.models.language.llama import LlamaConfig
from owl_jax.models.language.owl2 import Owl2LlamaConfig
from owl_jax.models.lora import LoraConfig
from owl_jax.models.vision.clip import ClipConfig
from owl_jax.training.config import read_recipes
from owl_jax.training.objectives.next_token import next_token
from owl_jax.training.optimizer import Recipe, make_optimizer
from owl_jax.training.partition import FROZEN, Rules, assign, split
from owl_jax.training.step import Step, make_step

# Every dimension that has a mesh axis divides by eight, or by two for tensor.
LLAMA = OwlConfig(
    vision=ClipConfig(16, 8, 16, 32, num_layers=1, num_heads=2),
    connector=AbstractorConfig(2, 16, 32, num_layers=1, num_heads=2),
    llm=LlamaConfig(64, 16, 32, num_layers=2, num_heads=2, num_kv_heads=2),
    lora=LoraConfig(2, 4.0, dropout=0.0),
)
MODELS = {
    "llama": LLAMA,
    "bloom": dataclasses.replace(
        LLAMA,
        llm=BloomConfig(64, 16, num_layers=2, num_heads=2),
        lora=LoraConfig(2, 4.0, dropout=0.0, targets=("query_key_value",)),
    ),
}
OWL2 = dataclasses.replace(
    LLAMA,
    connector=Owl2AbstractorConfig(2, 16, 32, num_layers=1, num_heads=2),
    llm=Owl2LlamaConfig(64, 16, 32, num_layers=2, num_heads=2, num_kv_heads=2),
    lora=None,
)
LENGTH = 24

CONFIGS = Path(__file__).parents[2] / "configs"


def stage_rules(name: str) -> Rules:
    """The rules of a config that ships, and those of its parts."""
    config = runpy.run_path(str(CONFIGS / f"{name}.py"))["get_config"]()
    return read_recipes(config)[0]


def draw_params(config: OwlConfig) -> Any:
    """float32 weights all of which matter: LoRA's B and the biases are not zero."""
    random = np.random.default_rng(0)
    return jax.tree.map(
        lambda x: random.normal(0, 0.3, x.shape).astype(np.float32), abstract_params(config)
    )


def make_batch(config: OwlConfig, answers: Sequence[int], pictures: bool = True) -> Batch:
    """One row for each number of supervised tokens in `answers`; every second has a picture."""
    random = np.random.default_rng(1)
    side = config.vision.image_size
    examples = []
    for row, count in enumerate(answers):
        picture = [-1] * config.num_tokens("image") if pictures and row % 2 == 0 else []
        words = random.integers(3, config.llm.vocab_size, 4 + count)
        ids = np.array([1, *picture, *words], np.int32)
        mask = np.arange(len(ids)) >= len(ids) - count
        images = random.integers(0, 256, (int(bool(picture)), side, side, 3)).astype(np.uint8)
        examples.append(Example(ids, mask, images, np.zeros((0, 1, side, side, 3), np.uint8)))
    return collate(
        [[item] for item in examples],
        SequenceShape(LENGTH, config.media_lengths(), side, image_slots=1),
    )


@dataclass
class Pieces:
    """What a training run is made of, before anything is placed or compiled."""

    step: Step
    optimizer: optax.GradientTransformation
    labels: Any
    trainable: Any
    frozen: Any


def take_apart(
    config: OwlConfig,
    rules: Rules,
    accumulate: int = 1,
    compute: Compute = Compute(),  # noqa: B008 (frozen)
    first: optax.GradientTransformation | None = None,
) -> Pieces:
    """The step for `rules`, with one recipe for all that they train.

    first: sees the gradients before the optimizer does.
    """
    # A large epsilon: where a gradient is zero but for rounding, so is Adam's update.
    recipe = Recipe(0.01, schedule="constant", eps=0.01)
    params = draw_params(config)
    recipes = {name: recipe for _, name in rules if name != FROZEN}
    labels = assign(params, rules, recipes)
    trainable, frozen = split(params, labels)
    optimizer = make_optimizer(recipes, split(labels, labels)[0], 10, 1.0)
    if first is not None:
        optimizer = optax.chain(first, optimizer)
    step = make_step(next_token(config, compute), optimizer, seed=0, accumulate=accumulate)
    return Pieces(step, optimizer, labels, trainable, frozen)
