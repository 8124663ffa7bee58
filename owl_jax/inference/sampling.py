"""How the next token is chosen from logits: the likeliest, or drawn by temperature, top-k, top-p.

Letters: B rows, V vocabulary.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from flax import struct

from owl_jax.errors import UserError


@struct.dataclass
class Sampling:
    """Settings of the sampler, a pytree: None is no part of the compiled program, a number is an
    argument of it, so that the same program serves every temperature, top_k and top_p.

    temperature: divides the logits; None takes the likeliest token, whatever else is set.
    top_k: only the k likeliest tokens can be drawn (and those as likely as the last of them).
    top_p: then only the likeliest ones that together reach this probability (arXiv 1904.09751).
    """

    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None

    @staticmethod
    def of(
        temperature: float = 0.0, top_k: int | None = None, top_p: float | None = None
    ) -> Sampling:
        """Settings as people give them: temperature 0 takes the likeliest token.

        Raises UserError for a value out of its range.
        """
        if not 0 <= temperature < math.inf:
            raise UserError(f"temperature is {temperature}; expected 0 (greedy) or more")
        if top_k is not None and top_k < 1:
            raise UserError(f"top_k is {top_k}; expected at least 1, or None")
        if top_p is not None and not 0 < top_p <= 1:
            raise UserError(f"top_p is {top_p}; expected more than 0 and at most 1, or None")
        return Sampling(temperature, top_k, top_p) if temperature else Sampling()


def sample(logits: jax.Array, keys: jax.Array, settings: Sampling) -> jax.Array:
    """One token for each row: float32[B, V], key[B] -> int32[B]."""
    if settings.temperature is None:
        return jnp.argmax(logits, axis=-1).astype(jnp.int32)
    logits = keep_likely(logits / settings.temperature, settings.top_k, settings.top_p)
    return jax.vmap(jax.random.categorical)(keys, logits).astype(jnp.int32)


def keep_likely(logits: jax.Array, top_k: int | None, top_p: float | None) -> jax.Array:
    """float32[B, V] with -inf for the tokens that top_k and then top_p exclude.

    The probabilities that top_p adds up are those after top_k, as in transformers (TopKLogitsWarper
    and TopPLogitsWarper).
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
