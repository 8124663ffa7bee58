"""Error of an int8 cache: the logits and the greedy tokens of a random LLaMA.

    python benchmarks/int8_cache.py [--width=1024] [--layers=8] [--prompt=128] [--tokens=48]

Compares float32 with keys and values in int8, everything else the same: logits of the same tokens,
and how many tokens each prompt's two greedy answers have in common before they part.
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
    exact, narrow = Owl(config, params), Owl(config, params, cache_dtype="int8")
    shape = _PROMPTS.value, _PROMPT.value
    ids = np.random.default_rng(0).integers(3, config.llm.vocab_size, shape, np.int32)
    answers = [
        owl.generate(ids, max_new_tokens=_TOKENS.value, eos_token_id=-1) for owl in (exact, narrow)
    ]
    differs = answers[0] != answers[1]
    common = np.where(differs.any(axis=1), differs.argmax(axis=1), _TOKENS.value)
    whole = np.concatenate([ids, answers[0]], axis=1)
    a, b = (np.asarray(owl.logits(whole)) for owl in (exact, narrow))
    equal = (a.argmax(axis=-1) == b.argmax(axis=-1)).mean()
    print(f"LLaMA {_LAYERS.value} x {_WIDTH.value}, {shape[0]} prompts of {shape[1]} tokens")
    print(f"mean |difference| of logits {np.abs(a - b).mean():.2e}; logits have a standard")
    print(
        f"deviation of {a.std():.2e}; relative L2 {np.linalg.norm(a - b) / np.linalg.norm(a):.2%}"
    )
    print(f"likeliest token equal at {equal:.2%} of {a.shape[0] * a.shape[1]} tokens")
    print(
        f"greedy answers: {common.sum()} of {common.size * _TOKENS.value} tokens before they part"
    )


if __name__ == "__main__":
    cli.run(main)
