"""Error of an int8 cache: the logits and the greedy tokens of a random LLaMA.

    python benchmarks/int8_cache.py [--width=1024] [--layers=8] [--prompt=128] [--tokens=48]

Compares float32 with an int8 cache, everything else the same, and with bfloat16 activations for
scale: logits of the same tokens, and how many tokens each prompt's greedy answers have in common
before they part.
"""

from __future__ import annotations

from functools import partial

import flax.linen as nn
import jax
import numpy as np
from _timing import small_model
from absl import flags

from owl_jax import cli
from owl_jax.inference.api import Owl
from owl_jax.models.compute import Compute
from owl_jax.models.vlm import init_params

_WIDTH = flags.DEFINE_integer("width", 1024, "of the language model", lower_bound=64)
_LAYERS = flags.DEFINE_integer("layers", 8, "of the language model", lower_bound=1)
_PROMPTS = flags.DEFINE_integer("prompts", 8, "random prompts", lower_bound=1)
_PROMPT = flags.DEFINE_integer("prompt", 128, "tokens of each prompt", lower_bound=1)
_TOKENS = flags.DEFINE_integer("tokens", 48, "of each answer", lower_bound=1)


def main(argv: list[str]) -> None:
    """Prints the differences."""
    del argv
    config = small_model(_WIDTH.value, _LAYERS.value)
    params = nn.meta.unbox(jax.jit(partial(init_params, config, Compute()))(jax.random.key(0)))
    exact = Owl(config, params)
    others = {
        "int8 cache": Owl(config, params, cache_dtype="int8"),
        "bfloat16": Owl(config, params, dtype="bfloat16"),
    }
    shape = _PROMPTS.value, _PROMPT.value
    ids = np.random.default_rng(0).integers(3, config.llm.vocab_size, shape, np.int32)
    answers = _answers(exact, ids)
    whole = np.concatenate([ids, answers], axis=1)
    expected = np.asarray(exact.logits(whole))
    print(f"LLaMA {_LAYERS.value} x {_WIDTH.value}, {shape[0]} prompts of {shape[1]} tokens")
    print(f"logits have a standard deviation of {expected.std():.2e}")
    for name, owl in others.items():
        found = np.asarray(owl.logits(whole))
        error = np.abs(found - expected)
        relative = np.linalg.norm(error) / np.linalg.norm(expected)
        likeliest = found.argmax(axis=-1) == expected.argmax(axis=-1)
        differs = _answers(owl, ids) != answers
        common = np.where(differs.any(axis=1), differs.argmax(axis=1), _TOKENS.value).sum()
        print(
            f"{name}: mean |difference| of logits {error.mean():.2e}, relative L2 {relative:.2%}; "
            f"likeliest token equal at {likeliest.mean():.2%} of {likeliest.size} tokens; greedy "
            f"answers equal for {common} of {answers.size} tokens before they part"
        )


def _answers(owl: Owl, ids: np.ndarray) -> np.ndarray:
    return owl.generate(ids, max_new_tokens=_TOKENS.value, eos_token_id=-1)


if __name__ == "__main__":
    cli.run(main)
