"""The vision-language model: vision encoder, connector and language model in one parameter tree.

Letters: B sequences, L tokens, N images, M videos, T frames, S image side, D language width,
V vocabulary.

The tree's top-level keys are "vision", "connector", "llm" and, with LoRA, "lora". Use
`VisionLanguageModel` through `init_params`, `forward` and `head`: they take the tree and return
arrays.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict

from owl_jax.errors import UserError, shown
from owl_jax.models.attention.mask import AttentionMask, self_attention_mask
from owl_jax.models.cache import Cache
from owl_jax.models.compute import Compute
from owl_jax.models.config import OwlConfig
from owl_jax.models.lora import COLLECTION
from owl_jax.models.modality import Modality
from owl_jax.models.parts import Part, faults_told
from owl_jax.models.splice import splice
from owl_jax.models.weight_names import projections

Params = Mapping[str, Any]


class VisionLanguageModel(nn.Module):
    """Vision encoder, connector and language model; attribute names are the top-level keys."""

    config: OwlConfig
    compute: Compute

    def setup(self) -> None:
        config = self.config
        if config.vision is not None and config.connector is not None:
            vision = config.vision.build(self.compute)
            self.vision: Any = _module(vision, config.vision)
            width = config.llm.hidden_size
            connector = config.connector.build(config.vision, width, self.compute)
            self.connector: Any = _module(connector, config.connector)
        self.llm: Any = _module(config.llm.build(self.compute, config.lora), config.llm)

    def encode_media(self, pixels: jax.Array) -> jax.Array:
        """[B, N, T, S, S, 3], uint8 or normalised float -> [B, N, tokens of each, D]."""
        B, N = pixels.shape[:2]
        vision, connector = self.config.vision, self.config.connector
        assert vision is not None and connector is not None
        if pixels.dtype == jnp.uint8:
            pixels = (pixels / 255.0 - jnp.asarray(vision.pixel_mean)) / jnp.asarray(
                vision.pixel_std
            )
        with faults_told(vision):
            encoded = self.vision(pixels.reshape(-1, *pixels.shape[2:]))
        self._check_encoded(
            _shape(encoded, f"vision encoder {vision.architecture}"), (B * N, pixels.shape[2])
        )
        with faults_told(connector):
            vectors = self.connector(encoded)
        self._check_vectors(
            _shape(vectors, f"connector {connector.architecture}"), B * N, pixels.shape[2]
        )
        return vectors.reshape(B, N, *vectors.shape[1:])

    def _check_encoded(self, found: tuple[int, ...], media: tuple[int, int]) -> None:
        """Raises UserError unless an encoder returns what it says. media: (N, T)."""
        vision = self.config.vision
        assert vision is not None
        said = (*media, vision.tokens_per_frame, vision.hidden_size)
        if found != said:
            raise UserError(
                f"vision encoder {vision.architecture}: its module returns the shape {found}; "
                f"expected {said}, which are media, frames, tokens of a frame (num_prefix_tokens "
                "and grid), hidden_size"
            )

    def _check_vectors(self, found: tuple[int, ...], media: int, frames: int) -> None:
        """Raises UserError unless a connector returns the tokens that it says, as wide as text."""
        config = self.config
        assert config.connector is not None
        said = config.num_tokens("video", frames)
        expected = (media, said, config.llm.hidden_size)
        where = f"connector {config.connector.architecture}"
        if found == expected:
            return
        if found[:1] + found[2:] == expected[:1] + expected[2:]:
            raise UserError(
                f"{where}: num_tokens of {frames} frame(s) is {said}, but its module returns "
                f"{found[1]} tokens; make them agree"
            )
        raise UserError(
            f"{where}: its module returns the shape {found}; expected {expected}, which are media, "
            "tokens of each, width of the language model"
        )

    def media_table(self, images: jax.Array | None, videos: jax.Array | None) -> jax.Array | None:
        """The vectors of each sequence's media slots, [B, W, D]; None if there are no slots."""
        media = []
        if images is not None and images.shape[1]:
            media.append(self.encode_media(images[:, :, None]))
        if videos is not None and videos.shape[1]:
            media.append(self.encode_media(videos))
        if not media:
            return None
        names = ("batch", "slots", None, "act_embed")
        vectors = [nn.with_logical_constraint(vectors, names) for vectors in media]
        B, _, _, D = vectors[0].shape
        return jnp.concatenate([x.reshape(B, -1, D) for x in vectors], axis=1)

    def embed(
        self, input_ids: jax.Array, media: jax.Array | None, media_index: jax.Array
    ) -> jax.Array:
        """Token embeddings with the vectors of `media_table` spliced in, [B, L, D]."""
        text = nn.with_logical_constraint(
            self.llm.embed(jnp.maximum(input_ids, 0)), ("batch", "length", "act_embed")
        )
        return text if media is None else splice(text, media, media_index)

    def hidden_states(
        self,
        embeddings: jax.Array,
        mask: AttentionMask,
        cache: Cache | None = None,
        deterministic: bool = True,
        modality: Modality | None = None,
    ) -> tuple[jax.Array, Cache]:
        """The language model without its head; see Decoder.__call__."""
        embeddings = nn.with_logical_constraint(embeddings, ("batch", "length", "act_embed"))
        options = {"modality": modality} if self.config.llm.USES_MODALITY else {}
        with faults_told(self.config.llm):
            return self.llm(embeddings, mask, cache, deterministic, **options)

    def modality(self, media: jax.Array | None, media_index: jax.Array) -> Modality | None:
        """Which tokens are visual; None without media, or if the language model does not use it."""
        if media is None or not self.config.llm.USES_MODALITY:
            return None
        return Modality.of(media_index, media.shape[1])

    def head(self, hidden: jax.Array) -> jax.Array:
        """[..., D] -> float32[..., V]."""
        with faults_told(self.config.llm):
            return self.llm.head(hidden)

    def __call__(
        self,
        input_ids: jax.Array,
        images: jax.Array | None,
        videos: jax.Array | None,
        media_index: jax.Array,
        mask: AttentionMask,
        deterministic: bool = True,
        logits: bool = True,
    ) -> jax.Array:
        media = self.media_table(images, videos)
        embeddings = self.embed(input_ids, media, media_index)
        self.sow("intermediates", "embeddings", embeddings)
        modality = self.modality(media, media_index)
        hidden, _ = self.hidden_states(
            embeddings, mask, deterministic=deterministic, modality=modality
        )
        return self.logits(hidden) if logits else hidden

    def logits(self, hidden: jax.Array) -> jax.Array:
        """`head` with a sharding constraint: [B, L, D] -> float32[B, L, V]."""
        logits = self.head(hidden)
        return nn.with_logical_constraint(logits, ("batch", "length", "act_vocab"))


def _module(built: Any, part: Part) -> nn.Module:
    """What `part.build` returned. Raises UserError unless it is a module."""
    if isinstance(built, nn.Module):
        return built
    raise UserError(
        f"build of {type(part).__name__} returned {shown(built)}; expected a Flax module"
    )


def _shape(found: Any, where: str) -> tuple[int, ...]:
    """The shape of what a part's module returned. Raises UserError unless it is floats.

    where: the part, for the message.
    """
    kind = type(found).__name__
    if isinstance(found, jax.Array | np.ndarray):
        if jnp.issubdtype(found.dtype, jnp.floating):
            return found.shape
        kind = f"an array of {found.dtype}"
    raise UserError(f"{where}: its module returns {kind}; expected one array of floats")


def variables(params: Params) -> dict[str, Any]:
    """The tree as Linen collections, with LoRA weights in their own (models/lora.py)."""
    tree = {name: subtree for name, subtree in params.items() if name != "lora"}
    return {"params": tree, COLLECTION: {"llm": params.get("lora", {})}}


# Jitted so that JAX caches the trace per config, for real weights and for eval_shape alike.
@partial(jax.jit, static_argnums=(0, 1))
def init_params(config: OwlConfig, compute: Compute, key: jax.Array) -> dict[str, Any]:
    """Randomly initialised float32 weights, boxed with logical axis names (nn.Partitioned).

    `abstract_params` returns shapes and names and allocates nothing; `nn.meta.unbox` removes the
    boxes. Raises UserError for a LoRA target that the language model does not have.
    """
    size = config.image_size
    tokens = jnp.zeros((1, 1), jnp.int32)
    images = None if config.text_only else jnp.zeros((1, 1, size, size, 3), jnp.float32)
    initialised = VisionLanguageModel(config, compute).init(
        key, tokens, images, None, tokens - 1, self_attention_mask(tokens, tokens)
    )
    params = dict(initialised["params"])
    if config.lora is not None:
        adapter = initialised.get(COLLECTION, {}).get("llm", {})
        adapted = {path[-2] for path in flatten_dict(adapter)}
        if unknown := set(config.lora.targets) - adapted:
            raise UserError(
                f"LoRA targets {', '.join(sorted(unknown))}: {config.llm.architecture} has no such "
                f"projection; it has {', '.join(projections(config.llm.weight_rows()))}"
            )
        params["lora"] = adapter
    return params


def abstract_params(config: OwlConfig) -> dict[str, Any]:
    """Like `init_params`, with `jax.ShapeDtypeStruct`s instead of arrays; computes nothing.

    Raises UserError for a user's own part whose module fails.
    """
    key = jax.eval_shape(jax.random.key, 0)
    with faults_told(*config.parts.values()):
        shapes: dict[str, Any] = init_params.eval_shape(config, Compute(), key)
    return shapes


def forward(
    config: OwlConfig,
    compute: Compute,
    params: Params,
    input_ids: jax.Array,
    positions: jax.Array,
    segment_ids: jax.Array,
    media_index: jax.Array,
    images: jax.Array | None = None,
    videos: jax.Array | None = None,
    dropout_key: jax.Array | None = None,
    key_segments: jax.Array | None = None,
    logits: bool = True,
) -> jax.Array:
    """Logits of whole sequences.

    Args:
      input_ids: int32[B, L]; any value at media tokens.
      positions, segment_ids: int32[B, L] (models/attention/mask.py, AttentionMask).
      media_index: int32[B, L] (models/splice.py).
      images: [B, N, S, S, 3], videos: [B, M, T, S, S, 3]; uint8, or float32 normalised.
      dropout_key: None disables LoRA's dropout.
      key_segments: int32[B, L], the keys' segments if they differ from the queries'.
      logits: False returns the hidden states, the input of `head`.

    Returns: float32[B, L, V], or [B, L, D].
    """
    mask = self_attention_mask(positions, segment_ids)
    if key_segments is not None:
        mask = dataclasses.replace(mask, key_segments=key_segments)
    result: Any = VisionLanguageModel(config, compute).apply(
        variables(params),
        input_ids,
        images,
        videos,
        media_index,
        mask,
        dropout_key is None,
        logits,
        rngs=None if dropout_key is None else {"dropout": dropout_key},
    )
    return result


def head(config: OwlConfig, compute: Compute, params: Params, hidden: jax.Array) -> jax.Array:
    """Hidden states [B, L, D] -> logits float32[B, L, V]; reads only `head_params`."""
    logits: Any = VisionLanguageModel(config, compute).apply(
        variables(params), hidden, method="logits"
    )
    return logits


def head_params(config: OwlConfig, params: Params) -> Params:
    """The parameters that `head` reads."""
    return {
        top: {name: params[top][name] for name in config.llm.head_modules if name in params[top]}
        for top in ("llm", "lora")
        if top in params
    }


def gather_head(compute: Compute, params: Params) -> Params:
    """`head_params` cast to the compute dtype and gathered, except along the vocabulary.

    Call it before a loop over `head`, so that the loop does not gather in every iteration.
    """
    axes = {"kernel": ("embed", "vocab"), "embedding": ("vocab", "embed")}

    def gather(path: tuple[Any, ...], weight: jax.Array) -> jax.Array:
        names = axes.get(path[-1].key)
        if names is None:
            return weight
        if weight.dtype.itemsize > jnp.dtype(compute.dtype).itemsize:
            # Keep the sharding here: XLA then casts before it gathers, and moves fewer bytes.
            weight = nn.with_logical_constraint(weight.astype(compute.dtype), names)
        gathered = tuple(None if name == "embed" else name for name in names)
        return nn.with_logical_constraint(weight, gathered)

    return jax.tree_util.tree_map_with_path(gather, params)
