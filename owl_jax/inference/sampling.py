"""Samples the next token from logits: greedy, or by temperature, top-k and top-p.

Letters: B sequences, V vocabulary.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from flax import struct

from owl_jax.errors import UserError
from owl_jax.inference.arguments import real_number, whole_number

# The compiled program compares top_k with int32; a larger value keeps every token.
_LARGEST_K = 2**31 - 1

_LARGEST_SEED = 2**63 - 1

# Outside these bounds a temperature or top_p becomes 0 or infinite in float32. Below the first,
# sampling is greedy; above the second, uniform.
_LOWEST, _HIGHEST = 1e-20, 1e30


@struct.dataclass
class Sampling:
    """Settings of the sampler, a pytree. Numbers are arguments of the compiled program, so one
    program serves all of them; a setting of None is compiled out.

    temperature: divides the logits; None is greedy, whatever else is set.
    top_k: keeps the k likeliest tokens, and ties with the last of them.
    top_p: then keeps the likeliest tokens, as few as reach this probability (arXiv 1904.09751).
    """

    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None

    @staticmethod
    def of(
        temperature: float = 0.0, top_k: int | None = None, top_p: float | None = None
    ) -> Sampling:
        """Checks a user's settings; temperature 0 is greedy.

        Raises UserError for a value out of its range.
        """
        heat = real_number(temperature, "temperature", "0 (greedy) or more")
        if not 0 <= heat < math.inf:
            raise UserError(f"temperature is {heat}; expected 0 (greedy) or more, and finite")
        if top_k is not None:
            top_k = min(whole_number(top_k, "top_k", 1), _LARGEST_K)
        if top_p is not None:
            top_p = real_number(top_p, "top_p", "more than 0 and at most 1, or None")
            if not 0 < top_p <= 1:
                raise UserError(f"top_p is {top_p}; expected more than 0 and at most 1, or None")
            top_p = max(top_p, _LOWEST)
        return Sampling(min(heat, _HIGHEST), top_k, top_p) if heat > _LOWEST else Sampling()


def check_seed(seed: int) -> int:
    """The seed as an int. Raises UserError unless it is a whole number in 0 .. 2**63 - 1."""
    return whole_number(seed, "seed", 0, _LARGEST_SEED)


def random_key(seed: int) -> jax.Array:
    """The sampler's key, different for each seed in 0 .. 2**63 - 1.

    Raises UserError for any other seed.
    """
    number = check_seed(seed)
    # jax.random.key drops the upper 32 bits unless jax_enable_x64 is set.
    low, high = number & 0xFFFFFFFF, number >> 32
    key = jax.random.key(low)
    return jax.random.fold_in(key, high) if high else key


def sample(logits: jax.Array, keys: jax.Array, settings: Sampling) -> jax.Array:
    """Samples one token per sequence: float32[B, V], key[B] -> int32[B]."""
    if settings.temperature is None:
        return jnp.argmax(logits, axis=-1).astype(jnp.int32)
    logits = keep_likely(logits / settings.temperature, settings.top_k, settings.top_p)
    return jax.vmap(jax.random.categorical)(keys, logits).astype(jnp.int32)


def keep_likely(logits: jax.Array, top_k: int | None, top_p: float | None) -> jax.Array:
    """float32[B, V] with -inf for the tokens that top_k and then top_p exclude.

    top_p applies to the probabilities after top_k, as in transformers (TopKLogitsWarper and
    TopPLogitsWarper).
    """
    if top_k is None and top_p is None:
        return logits
    ranked = jnp.sort(logits, axis=-1, descending=True)
    kept = jnp.ones(ranked.shape, bool)
    if top_k is not None:
        kept &= jnp.arange(ranked.shape[-1]) < top_k
    if top_p is not None:
        probabilities = jax.nn.softmax(jnp.where(kept, ranked, -jnp.inf), axis=-1)
        before = jnp.cumsum(probabilities, axis=-1) - probabilities
        kept &= before < top_p
    lowest = jnp.min(jnp.where(kept, ranked, jnp.inf), axis=-1, keepdims=True)
    return jnp.where(logits < lowest, -jnp.inf, logits)
