"""How likely given texts are after a prompt: losses of continuations, probabilities of next tokens.

A prompt is read once, alone; its continuations are read side by side, each after the prompt's keys
and values. So a result depends on nothing but the prompt and its continuations.

Letters: N continuations, C tokens of each, L tokens of the prompt, K tokens that may come next,
n tokens of a medium, D width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from owl_jax.errors import UserError
from owl_jax.inference.core import Prefilled, encode, prefill, without_adapters
from owl_jax.inference.media_cache import MediaCache
from owl_jax.inference.prefix import TokenRun
from owl_jax.inference.prompt import Prompt, round_up
from owl_jax.inference.requests import ChatPrompt
from owl_jax.models.attention.mask import PastTokens, self_attention_mask
from owl_jax.models.cache import empty_cache, write_all
from owl_jax.models.compute import Compute
from owl_jax.models.config import OwlConfig
from owl_jax.models.vlm import Params, VisionLanguageModel, variables
from owl_jax.parallel.sharding import on_mesh

_BUCKET = 8  # C is rounded up to a multiple of this, so that questions share programs
_MEDIA_BYTES = 2**28


class Likelihood:
    """Scores what may follow a prompt. For one thread; on several processes, all call it alike.

    Methods return before the device has finished.
    """

    def __init__(
        self,
        config: OwlConfig,
        compute: Compute,
        params: Params,
        mesh: Mesh | None = None,
        media_cache_bytes: int = _MEDIA_BYTES,
    ):
        """params: in the form that `compute.scan_layers` requires; with several adapters, the base
        is used. media_cache_bytes: of encoded media that are kept for the next prompts."""
        self._config, self._params = without_adapters(config, params)
        self._compute, self._mesh = compute, mesh
        self._media = MediaCache(media_cache_bytes, self._encode)

    def losses(self, prompt: ChatPrompt, continuations: Sequence[Sequence[int]]) -> jax.Array:
        """float32[N]: the sum of the negative log-likelihoods of each continuation's tokens, nats.

        Raises UserError for a continuation without tokens, and if the longest does not fit into the
        model after the prompt.
        """
        counts = [len(ids) for ids in continuations]
        if not counts or not min(counts):
            raise UserError("a continuation has no tokens; expected at least one")
        N, C = -(-len(counts) // 2) * 2, -(-max(counts) // _BUCKET) * _BUCKET
        if len(prompt.input_ids) + max(counts) > self._config.llm.max_length:
            raise UserError(
                f"the prompt has {len(prompt.input_ids)} tokens and a continuation {max(counts)}; "
                f"the model's maximum is {self._config.llm.max_length}"
            )
        ids, lengths = np.zeros((N, C), np.int32), np.ones(N, np.int32)
        lengths[: len(counts)] = counts
        for row, tokens in enumerate(continuations):
            ids[row, : len(tokens)] = tokens
        prefilled, length = self._prefill(prompt)
        with on_mesh(self._mesh, N):
            found = continuation_losses(
                self._config, self._compute, self._params, prefilled, length, ids, lengths
            )
        return found[: len(counts)]

    def logprobs(self, prompt: ChatPrompt, ids: Sequence[int]) -> jax.Array:
        """float32[K]: the log-probability of each of the tokens `ids` to come next."""
        prefilled, _ = self._prefill(prompt)
        with on_mesh(self._mesh, 1):
            return _logprobs(prefilled.logits, np.asarray(ids, np.int32))

    def _prefill(self, prompt: ChatPrompt) -> tuple[Prefilled, np.ndarray]:
        """The prompt's keys, values and last logits; its length, int32[1]."""
        run = TokenRun.of(prompt, self._config.num_tokens, None)
        length = len(run.ids)
        ids, index = (np.full((1, round_up(length)), fill, np.int32) for fill in (0, -1))
        ids[0, :length] = np.maximum(run.ids, 0)
        is_medium = np.flatnonzero(run.ids < 0)
        index[0, is_medium] = np.arange(len(is_medium))
        vectors = [self._media.vectors(span.key, span.pixels) for span in run.spans]
        lengths = np.asarray([length], np.int32)
        with on_mesh(self._mesh, 1):
            media = _joined(vectors) if vectors else None
            given = Prompt(ids, index, lengths, media=media)
            return prefill(self._config, self._compute, self._params, given), lengths

    def _encode(self, pixels: np.ndarray) -> jax.Array:
        batch = pixels[None, None]
        media = (None, batch) if pixels.ndim == 4 else (batch, None)
        with on_mesh(self._mesh, 1):
            vectors = encode(self._config, self._compute, self._params, *media)
            assert vectors is not None
            return vectors[0]


@partial(jax.jit, static_argnames=("config", "compute"))
def continuation_losses(
    config: OwlConfig,
    compute: Compute,
    params: Params,
    prefilled: Prefilled,
    length: np.ndarray,
    ids: np.ndarray,
    lengths: np.ndarray,
) -> jax.Array:
    """float32[N]: the summed loss of each continuation of one prompt, in nats.

    prefilled: of the prompt, padded to L; length: int32[1], its tokens. ids: int32[N, C], padded on
    the right; lengths: int32[N], at least 1.
    """
    run = partial(VisionLanguageModel(config, compute).apply, variables(params))
    N, C = ids.shape
    L = jax.tree.leaves(prefilled.new)[0].shape[-2]
    cache = write_all(empty_cache(prefilled.new, 1, L), prefilled.new)
    # All continuations read the one row of the prompt.
    past = PastTokens(jnp.broadcast_to(length, N), jnp.zeros(N, jnp.int32))
    positions = jnp.broadcast_to(length + jnp.arange(C), (N, C))
    mask = self_attention_mask(positions, jnp.ones((N, C), jnp.int32), past)
    no_media = jnp.full((N, C), -1, jnp.int32)
    embeddings = run(ids, None, no_media, method="embed")
    hidden, _ = run(embeddings, mask, cache, method="hidden_states")

    def loss(one: tuple[jax.Array, jax.Array, jax.Array]) -> jax.Array:
        """Of one continuation: the logits of all would be [N, C, V]."""
        hidden, ids, length = one
        logits = run(hidden[None, :-1], method="head")[0]
        logits = jnp.concatenate([prefilled.logits, logits])
        chosen = jnp.take_along_axis(jax.nn.log_softmax(logits), ids[:, None], axis=1)[:, 0]
        return -jnp.sum(jnp.where(jnp.arange(C) < length, chosen, 0))

    return jax.lax.map(loss, (hidden, jnp.asarray(ids), jnp.asarray(lengths)))


@jax.jit
def _logprobs(logits: jax.Array, ids: np.ndarray) -> jax.Array:
    return jax.nn.log_softmax(logits[0])[ids]


@jax.jit
def _joined(vectors: Sequence[jax.Array]) -> jax.Array:
    """[1, sum of n, D]: the vectors of all media, in reading order."""
    return jnp.concatenate(vectors)[None]
