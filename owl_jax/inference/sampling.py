"""Samples the next token from logits: greedy, or by temperature, top-k and top-p, with penalties.

Letters: B rows, V vocabulary, E end ids.

Each row has its own settings, so requests with different settings share a batch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from owl_jax.errors import UserError
from owl_jax.inference.arguments import real_number, whole_number

Array = Any  # NumPy on the host, jax.Array in a program

END_IDS = 8  # end ids are padded to a multiple of this; released models have at most five

# The compiled program compares top_k with int32; a larger value keeps every token.
_LARGEST_K = 2**31 - 1

_LARGEST_SEED = 2**63 - 1

# Outside these bounds a temperature or top_p becomes 0 or infinite in float32. Below the first,
# sampling is greedy; above the second, uniform.
_LOWEST, _HIGHEST = 1e-20, 1e30


@dataclass(frozen=True)
class Sampling:
    """Settings of one request.

    temperature: divides the logits; 0 is greedy.
    top_k: keeps the k likeliest tokens, and ties with the last of them; None: all.
    top_p: then keeps the likeliest tokens, as few as reach this probability (arXiv 1904.09751).
    repetition_penalty: divides positive logits, and multiplies negative ones, of tokens that are in
      the prompt or the answer (arXiv 1909.05858); 1: no penalty.
    presence_penalty, frequency_penalty: subtracted from the logits of tokens that are in the
      answer, once and for each time, as in OpenAI's API.
    """

    temperature: float = 0.0
    top_k: int | None = None
    top_p: float | None = None
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0

    @staticmethod
    def of(
        temperature: float = 0.0,
        top_k: int | None = None,
        top_p: float | None = None,
        repetition_penalty: float = 1.0,
        presence_penalty: float = 0.0,
        frequency_penalty: float = 0.0,
    ) -> Sampling:
        """Checks a user's settings. Raises UserError for a value out of its range."""
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
        factor = real_number(repetition_penalty, "repetition_penalty", "more than 0")
        if not _LOWEST < factor < _HIGHEST:
            raise UserError(f"repetition_penalty is {factor}; expected more than 0, and finite")
        penalties = {"presence_penalty": presence_penalty, "frequency_penalty": frequency_penalty}
        for name, value in penalties.items():
            penalties[name] = real_number(value, name, "-2 to 2")
            if not -2 <= penalties[name] <= 2:
                raise UserError(f"{name} is {penalties[name]}; expected -2 to 2")
        heat = min(heat, _HIGHEST) if heat > _LOWEST else 0.0
        return Sampling(heat, top_k, top_p, factor, **penalties)

    @property
    def penalizes(self) -> bool:
        """Whether the next token depends on which tokens came before."""
        return (
            self.repetition_penalty != 1
            or self.presence_penalty != 0
            or self.frequency_penalty != 0
        )


@struct.dataclass
class SamplingRows:
    """The settings of B rows: arguments of the compiled program, which serves all values.

    temperature, top_p, repetition_penalty, presence_penalty, frequency_penalty: float32[B].
    top_k: int32[B]. keys: key[B], a random key per row; token n samples from fold_in(key, n).
    """

    temperature: Array
    top_k: Array
    top_p: Array
    repetition_penalty: Array
    presence_penalty: Array
    frequency_penalty: Array
    keys: Array

    @staticmethod
    def of(settings: Sequence[Sampling], keys: jax.Array) -> SamplingRows:
        """The settings of each row; keys: key[B]."""

        def column(read: Callable[[Sampling], float], dtype: type = np.float32) -> np.ndarray:
            return np.asarray([read(row) for row in settings], dtype)

        return SamplingRows(
            temperature=column(lambda row: row.temperature),
            top_k=column(lambda row: row.top_k or _LARGEST_K, np.int32),
            top_p=column(lambda row: row.top_p or 1.0),
            repetition_penalty=column(lambda row: row.repetition_penalty),
            presence_penalty=column(lambda row: row.presence_penalty),
            frequency_penalty=column(lambda row: row.frequency_penalty),
            keys=keys,
        )


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


def row_keys(seed: int, num_rows: int) -> jax.Array:
    """key[B]: row b of a batch samples from fold_in(key, b), whatever the others do."""
    return jax.vmap(jax.random.fold_in, (None, 0))(random_key(seed), jnp.arange(num_rows))


def sample(logits: jax.Array, settings: SamplingRows, counts: jax.Array) -> jax.Array:
    """Samples one token per row: float32[B, V], int32[B] -> int32[B].

    counts: the number of tokens that each row has sampled before.
    """

    def greedy() -> jax.Array:
        return jnp.argmax(logits, axis=-1).astype(jnp.int32)

    def drawn() -> jax.Array:
        is_greedy = settings.temperature == 0
        scaled = logits / jnp.where(is_greedy, 1.0, settings.temperature)[:, None]
        keys = jax.vmap(jax.random.fold_in)(settings.keys, counts)
        likely = keep_likely(scaled, settings.top_k, settings.top_p)
        tokens = jax.vmap(jax.random.categorical)(keys, likely).astype(jnp.int32)
        return jnp.where(is_greedy, greedy(), tokens)

    return jax.lax.cond((settings.temperature > 0).any(), drawn, greedy)


def keep_likely(logits: jax.Array, top_k: jax.Array, top_p: jax.Array) -> jax.Array:
    """float32[B, V] with -inf for the tokens that top_k and then top_p exclude.

    top_k: int32[B], V or more for all tokens; top_p: float32[B], 1 for all. top_p applies to the
    probabilities after top_k, as in transformers (TopKLogitsWarper and TopPLogitsWarper).
    """

    def by_rank(logits: jax.Array) -> jax.Array:
        ranks = _ordered(logits)
        lowest = _largest(lambda least: (ranks >= least).sum(axis=-1) >= top_k, len(logits))
        return jnp.where(ranks >= lowest[:, None], logits, -jnp.inf)

    def by_mass(logits: jax.Array) -> jax.Array:
        ranks, probabilities = _ordered(logits), jax.nn.softmax(logits, axis=-1)

        def enough(least: jax.Array) -> jax.Array:
            return jnp.where(ranks >= least, probabilities, 0).sum(axis=-1) >= top_p

        # At 1 the sum of all may round to less, and the sum of some to 1.
        lowest = jnp.where(top_p < 1, _largest(enough, len(logits)), 0)
        return jnp.where(ranks >= lowest[:, None], logits, -jnp.inf)

    def unchanged(logits: jax.Array) -> jax.Array:
        return logits

    logits = jax.lax.cond((top_k < logits.shape[-1]).any(), by_rank, unchanged, logits)
    return jax.lax.cond((top_p < 1).any(), by_mass, unchanged, logits)


def penalize(
    logits: jax.Array, settings: SamplingRows, in_prompt: jax.Array, in_answer: jax.Array
) -> jax.Array:
    """float32[B, V] after the penalties. in_prompt: bool[B, V]; in_answer: int32[B, V], the number
    of times."""
    factor = settings.repetition_penalty[:, None]
    seen = in_prompt | (in_answer > 0)
    logits = jnp.where(seen, jnp.where(logits > 0, logits / factor, logits * factor), logits)
    logits -= settings.frequency_penalty[:, None] * in_answer
    return logits - settings.presence_penalty[:, None] * (in_answer > 0)


def _ordered(x: jax.Array) -> jax.Array:
    """float32 -> uint32 in the same order."""
    bits = jax.lax.bitcast_convert_type(x, jnp.uint32)
    return jnp.where(bits >> 31 == 1, ~bits, bits | jnp.uint32(1 << 31))


def _largest(holds: Callable[[jax.Array], jax.Array], num_rows: int) -> jax.Array:
    """The largest uint32 of each row for which a condition holds that holds up to some value.

    holds: uint32[B, 1] -> bool[B]. A search bit by bit reads the row 32 times, which is several
    times faster than sorting a vocabulary.
    """

    def next_bit(i: jax.Array, found: jax.Array) -> jax.Array:
        candidate = found | (jnp.uint32(1 << 31) >> i.astype(jnp.uint32))
        return jnp.where(holds(candidate[:, None]), candidate, found)

    return jax.lax.fori_loop(0, 32, next_bit, jnp.zeros(num_rows, jnp.uint32))
