"""How likely given texts are after a prompt: losses of continuations, probabilities of next tokens.

A prompt is read once, alone; its continuations are read as segments of one sequence, each after
the prompt's keys and values. So a result depends on nothing but the prompt and its continuations.

Letters: N continuations, C tokens of all of them, L tokens of the prompt, K tokens that may come
next, n tokens of a medium, D width, V vocabulary.
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
from owl_jax.inference.sampling import Array
from owl_jax.models.attention.mask import PastTokens, self_attention_mask
from owl_jax.models.cache import empty_cache, write_all
from owl_jax.models.compute import Compute
from owl_jax.models.config import OwlConfig
from owl_jax.models.vlm import Params, VisionLanguageModel, variables
from owl_jax.parallel.sharding import on_mesh

_BUCKET = 16  # C is rounded up to a multiple of this, so that questions share programs
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
        if len(prompt.input_ids) + max(counts) > self._config.llm.max_length:
            raise UserError(
                f"the prompt has {len(prompt.input_ids)} tokens and a continuation {max(counts)}; "
                f"the model's maximum is {self._config.llm.max_length}"
            )
        prefilled, length = self._prefill(prompt)
        with on_mesh(self._mesh, 1):
            found = _first_losses(prefilled.logits, [ids[0] for ids in continuations])
            if max(counts) == 1:
                return found
            rest = _side_by_side(continuations, int(length[0]))
            after = continuation_losses(
                self._config, self._compute, self._params, prefilled, length, *rest
            )
            return found + after[: len(counts)]

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
    length: Array,
    ids: Array,
    targets: Array,
    positions: Array,
    segments: Array,
) -> jax.Array:
    """float32[C]: the summed loss of the continuations' tokens after their first ones, in nats, by
    segment; 0 where there is none.

    prefilled: of the prompt, padded to L; length: int32[1], its tokens.
    ids, targets, positions, segments: int32[1, C]: tokens, the ones after them, their positions in
      the whole sequence, and the continuation that they belong to; -1 on padding.
    """
    run = partial(VisionLanguageModel(config, compute).apply, variables(params))
    L, C = jax.tree.leaves(prefilled.new)[0].shape[-2], ids.shape[1]
    cache = write_all(empty_cache(prefilled.new, 1, L), prefilled.new)
    mask = self_attention_mask(positions, segments, PastTokens(jnp.asarray(length)))
    embeddings = run(ids, None, jnp.full((1, C), -1, jnp.int32), method="embed")
    hidden, _ = run(embeddings, mask, cache, method="hidden_states")

    def losses(block: tuple[jax.Array, jax.Array]) -> jax.Array:
        """Of some tokens: the logits of all would be [C, V]."""
        hidden, targets = block
        logits = run(hidden[None], method="head")[0]
        return -jnp.take_along_axis(jax.nn.log_softmax(logits), targets[:, None], axis=1)[:, 0]

    blocks = hidden.reshape(-1, _BUCKET, hidden.shape[-1]), targets.reshape(-1, _BUCKET)
    found = jax.lax.map(losses, blocks).reshape(-1)
    return jax.ops.segment_sum(found, jnp.where(segments[0] < 0, C, segments[0]), C)


def _side_by_side(continuations: Sequence[Sequence[int]], length: int) -> list[np.ndarray]:
    """The arguments of `continuation_losses` after a prompt of `length` tokens."""
    inputs = [np.asarray(ids[:-1], np.int32) for ids in continuations]
    targets = [np.asarray(ids[1:], np.int32) for ids in continuations]
    positions = [length + np.arange(len(ids), dtype=np.int32) for ids in inputs]
    segments = [np.full(len(ids), number, np.int32) for number, ids in enumerate(inputs)]
    count = sum(map(len, inputs))
    C = -(-max(count, len(continuations)) // _BUCKET) * _BUCKET
    arrays = []
    for parts, padding in ((inputs, 0), (targets, 0), (positions, 0), (segments, -1)):
        array = np.full((1, C), padding, np.int32)
        array[0, :count] = np.concatenate(parts)
        arrays.append(array)
    return arrays


def _first_losses(logits: jax.Array, ids: Sequence[int]) -> jax.Array:
    return -_logprobs(logits, np.asarray(ids, np.int32))


@jax.jit
def _logprobs(logits: jax.Array, ids: Array) -> jax.Array:
    return jax.nn.log_softmax(logits[0])[ids]


@jax.jit
def _joined(vectors: Sequence[jax.Array]) -> jax.Array:
    """[1, sum of n, D]: the vectors of all media, in reading order."""
    return jnp.concatenate(vectors)[None]
