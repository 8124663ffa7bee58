"""Small configs of parts, whatever the part, and models of them that train, load and chat."""

from __future__ import annotations

import dataclasses
import json
import random
from collections import defaultdict
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import tiny
from PIL import Image

import owl_jax
from owl_jax.models.config import PARTS, OwlConfig
from owl_jax.models.parts import Part
from owl_jax.training.config import small_config
from owl_jax.training.loop import train

# By the name of a field, as far as a part has it: a picture is 4 x 4 patches.
SIZES = {
    "image_size": 56,
    "patch_size": 14,
    "hidden_size": 16,
    "intermediate_size": 32,
    "mlp_size": 32,
    "num_layers": 1,
    "num_heads": 2,
    "num_kv_heads": 2,
    "head_dim": 8,
    "head_width": 12,  # wider heads than hidden_size / num_heads
    "vocab_size": tiny.CONFIG.llm.vocab_size,
    "max_positions": 256,
    "num_query_tokens": 4,
    # Of the tokenizer below.
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}


def small(part: type[Part], **sizes: Any) -> Any:
    """A small config of the part; its other fields have their defaults."""
    fields = {field.name for field in dataclasses.fields(part)}
    found = {name: value for name, value in SIZES.items() if name in fields}
    return part(**{**found, **sizes})


def fitting(names: tuple[str, str, str]) -> OwlConfig:
    """A small model of three parts; without a class token where the connector refuses it."""
    vision, connector, llm = (
        small(parts[name]) for parts, name in zip(PARTS.values(), names, strict=True)
    )
    model = OwlConfig(vision, connector, llm)
    if connector.mismatches(vision, llm.hidden_size):
        grid = dataclasses.replace(vision, class_token_output=False)
        model = dataclasses.replace(model, vision=grid)
    assert model.problems() == []
    return model


OTHERS = 3  # that each part is to be seen with, at least


def partners_in(models: Sequence[tuple[str, ...]]) -> dict[str, set[str]]:
    """{part: the parts that it is with}."""
    partners: dict[str, set[str]] = defaultdict(set)
    for model in models:
        for name in model:
            partners[name] |= {*model} - {name}
    return partners


def drawn_models(seed: int = 0) -> list[Any]:
    """Names of three parts each: always the model that adds the most partners that are missing.

    They are drawn from the dicts of parts, so a new part is in some of them automatically.
    """
    every = list(product(*PARTS.values()))
    random.Random(seed).shuffle(every)
    models: list[tuple[str, ...]] = []

    def gain(model: tuple[str, ...]) -> int:
        partners = partners_in(models)
        return sum(
            min(OTHERS, len(partners[name] | {*model} - {name})) - min(OTHERS, len(partners[name]))
            for name in model
        )

    while gain(best := max(every, key=gain)):
        models.append(best)
    return models


MODELS = drawn_models()


def make_data(directory: Path) -> Path:
    """Writes pairs of a picture and a caption, and a tokenizer; returns the directory."""
    tiny.write_tokenizer(directory / "tokenizer")
    Image.new("RGB", (60, 40), (200, 30, 30)).save(directory / "red.png")
    record = {"text": "Human: <image>\nHuman: What do you see?\nAI: Red.", "image": ["red.png"]}
    (directory / "pairs.jsonl").write_text(f"{json.dumps(record)}\n" * 8)
    return directory


def train_a_step(
    model: OwlConfig, data: Path, workdir: Path, records: str = "pairs.jsonl", **changes: Any
) -> Path:
    """Trains every weight of `model` for one step on all devices; returns the saved model.

    records: the file of the data; changes: to config.data.
    """
    tokenizer = data / "tokenizer"
    base = tiny.write_model(workdir / "base", model, tokenizer)
    config = small_config(model)
    config.init.vision = config.init.connector = config.init.llm = str(base)
    config.steps, config.batch_size = 1, 8
    config.data.sequence_length = 192
    config.data.mixture = ((str(data / records), 1.0),)
    config.data.update(changes)
    config.mesh.tensor = 2
    config.rules = ((".*", "all"),)
    config.recipes.all = {"learning_rate": 1e-3, "warmup_steps": 0}
    saved = train(config, workdir / "run")
    assert saved is not None
    (line,) = (workdir / "run" / "metrics.jsonl").read_text().splitlines()
    metrics = json.loads(line)
    assert metrics["skipped"] == 0
    assert 0 < metrics["grad_norm"] < np.inf and 0 < metrics["loss"] < np.inf
    return saved


def ask(directory: Path, parts: tuple[str, ...] = ()) -> str:
    """A saved model's answer about a picture."""
    owl = owl_jax.load(directory, "float32", parts=parts)
    picture = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
    message = {"role": "user", "content": "<image>\nWhat do you see?"}
    answer = owl.chat([message], images=[picture], max_new_tokens=2)
    assert isinstance(answer, str)
    return answer
