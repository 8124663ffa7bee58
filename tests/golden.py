"""The recorded cases of tests/goldens as arrays of this project, and our values of them.

Letters: B rows, L positions, N media slots, T frames, S picture side.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from read_whole import load_model, read_adapter

from owl_jax.models.attention.mask import self_attention_mask
from owl_jax.models.compute import Compute
from owl_jax.models.config import OwlConfig
from owl_jax.models.connectors.abstractor import Abstractor
from owl_jax.models.language.decoder import Decoder
from owl_jax.models.layers import LayerNorm
from owl_jax.models.lora import merge
from owl_jax.models.vision.clip import Clip, ClipConfig
from owl_jax.models.vlm import VisionLanguageModel, forward, variables
from owl_jax.text.media_index import index_media
from owl_jax.training.objectives.cross_entropy import cross_entropy

GOLDENS = Path(__file__).parent / "goldens"
LLAMA, BLOOM, BLOOM_6 = "case01_image_llama", "case03_bloom", "case03b_bloom_6heads"
VIDEO, LORA, OWL2 = "case04_video", "case05_lora", "case06_owl2"

Arrays = dict[str, np.ndarray]

# The runs of each case by the prefix of their arrays: names of ids, pictures and videos.
_IMAGE_RUNS = {
    "": ("input_ids", "pixel_values", None),
    "textonly_": ("textonly_input_ids", None, None),
}
_RUNS: Mapping[str, Mapping[str, tuple[str, str | None, str | None]]] = {
    LLAMA: _IMAGE_RUNS,
    BLOOM: {"": _IMAGE_RUNS[""]},
    BLOOM_6: {"": _IMAGE_RUNS[""]},
    VIDEO: {
        "image_": ("image_input_ids", "image_pixel_values", None),
        "video_": ("video_input_ids", None, "video_pixel_values"),
        "mixed_": ("mixed_input_ids", "mixed_pixel_values", "mixed_video_pixel_values"),
        "textonly_": ("textonly_input_ids", None, None),
    },
    LORA: {"": _IMAGE_RUNS[""]},
    OWL2: {"": ("input_ids", "images", None), "textonly_": _IMAGE_RUNS["textonly_"]},
}

_OWL2_IMAGE = -200  # the one id that stands for a picture in mPLUG-Owl2's inputs

jitted_forward = jax.jit(forward, static_argnums=(0, 1))


@functools.cache
def model(case: str) -> tuple[OwlConfig, Any]:
    """The config and float32 parameters of a case; case 5 is the model of case 1 and an adapter."""
    if case != LORA:
        return load_model(GOLDENS / case, np.float32)
    config, params = model(LLAMA)
    lora_config, lora = read_adapter(GOLDENS / LORA, config, np.float32)
    return dataclasses.replace(config, lora=lora_config), {**params, "lora": lora}


@functools.cache
def inputs(case: str) -> Arrays:
    """The recorded inputs; for mPLUG-Owl2, all tokens of its pictures, and their labels."""
    given = dict(np.load(GOLDENS / case / "inputs.npz"))
    if case == OWL2:
        length = model(case)[0].num_tokens("image")
        for name in ("input_ids", "greedy_input_ids"):
            given[name] = _with_picture_tokens(given[name], length)
        given["attention_mask"] = outputs(case)["expanded_attention_mask"]
        given["labels"] = outputs(case)["expanded_labels"]
        given["textonly_labels"] = given["textonly_input_ids"]
    return given


def _with_picture_tokens(ids: np.ndarray, length: int) -> np.ndarray:
    """Each picture's id `length` times as -1; rows padded on the right with 0."""
    rows = [np.repeat(row, np.where(row == _OWL2_IMAGE, length, 1)) for row in ids]
    result = np.zeros((len(rows), max(map(len, rows))), ids.dtype)
    for row, values in zip(result, rows, strict=True):
        row[: len(values)] = np.where(values == _OWL2_IMAGE, -1, values)
    return result


@functools.cache
def outputs(case: str) -> Arrays:
    return dict(np.load(GOLDENS / case / "outputs.npz"))


def run_rows(case: str, prefix: str = "") -> dict[str, Any]:
    """The arguments of `forward` for one run of a case."""
    given, names = inputs(case), _RUNS[case][prefix]
    args = rows(model(case)[0], *(None if name is None else given[name] for name in names))
    if case == OWL2 and not prefix:  # the only case whose runs all have a mask
        args["key_segments"] = given["attention_mask"].astype(np.int32)
    return args


def rows(
    config: OwlConfig,
    ids: np.ndarray,
    pixels: np.ndarray | None = None,
    clips: np.ndarray | None = None,
) -> dict[str, Any]:
    """The arguments of `forward` for rows of one conversation each.

    ids: int[B, L], negative at media. pixels, clips: as the original has them, float32[n, 3, S, S]
    and [m, 3, T, S, S], in reading order over the batch.
    """
    lengths = config.media_lengths()
    images, num_images = None, 0
    if pixels is not None:
        images = _slots((ids == -1).sum(axis=1) // lengths.image, pixels.transpose(0, 2, 3, 1))
        num_images = images.shape[1]
    videos, num_videos = None, 0
    if clips is not None:
        videos = _slots((ids == -2).sum(axis=1) // lengths.video, clips.transpose(0, 2, 3, 4, 1))
        num_videos = videos.shape[1]
    return {
        "input_ids": np.maximum(ids, 0).astype(np.int32),
        "positions": np.broadcast_to(np.arange(ids.shape[1], dtype=np.int32), ids.shape),
        "segment_ids": np.ones(ids.shape, np.int32),
        "key_segments": np.ones(ids.shape, np.int32),
        "media_index": index_media(ids, lengths, num_images, num_videos),
        "images": images,
        "videos": videos,
    }


def _slots(counts: np.ndarray, media: np.ndarray) -> np.ndarray:
    """Media in reading order -> [B, N, ...]; row r has the next counts[r] of them, then zeros."""
    slots = np.zeros((len(counts), counts.max(), *media.shape[1:]), np.float32)
    slots[np.arange(counts.max()) < counts[:, None]] = media
    return slots


def targets_and_mask(case: str, prefix: str = "") -> tuple[np.ndarray, np.ndarray]:
    """int32[B, L - 1] and float32[B, L - 1]: what the original's three masks leave."""
    given = inputs(case)
    if case == OWL2:
        labels = given[f"{prefix}labels"][:, 1:]
        return np.maximum(labels, 0).astype(np.int32), (labels >= 0).astype(np.float32)
    masks = [given[f"{prefix}{name}_mask"] for name in ("non_padding", "non_media", "prompt")]
    targets = np.maximum(given[f"{prefix}labels"][:, 1:], 0).astype(np.int32)
    return targets, np.prod(masks, axis=0).astype(np.float32)


@jax.jit
def mean_loss(logits: jax.Array, targets: jax.Array, mask: jax.Array) -> jax.Array:
    """The original's loss of float32[B, L, V]: the mean over the supervised targets."""
    total, count = cross_entropy(logits[:, :-1], targets, mask)
    return total / count


@functools.cache
def reproduced(case: str) -> Arrays:
    """Our value of each array that outputs.npz has of the case's forward passes, by its name."""
    config, params = model(case)
    ours = {}
    for prefix in _RUNS[case]:
        args = run_rows(case, prefix)
        if case == OWL2:
            ours[f"{prefix}modality_indicators"] = args["media_index"] >= 0
            if not prefix:
                args["filling"] = (outputs(case)["inputs_embeds"] == 0).all(axis=2)
        for name, value in _trace(config, params, args).items():
            ours[prefix + name] = value
        if f"{prefix}labels" in inputs(case):
            ours[f"{prefix}loss"] = mean_loss(
                ours[f"{prefix}logits"], *targets_and_mask(case, prefix)
            )
    if "attention_mask" in inputs(case) and case != OWL2:
        keys = inputs(case)["attention_mask"].astype(np.int32)
        masked, _ = _run(config, params, {**run_rows(case), "key_segments": keys})
        ours |= {
            "logits_with_attention_mask": masked,
            "loss_with_attention_mask": mean_loss(masked, *targets_and_mask(case)),
        }
    if config.lora is not None:
        merged = {**params, "llm": merge(params["llm"], params["lora"], config.lora)}
        base = dataclasses.replace(config, lora=None)
        logits, _ = _run(base, merged, run_rows(case))
        ours |= {"logits_adapter": ours["logits"], "loss_adapter": ours["loss"]}
        ours |= {"logits_merged": logits, "loss_merged": mean_loss(logits, *targets_and_mask(case))}
    return {name: np.asarray(value) for name, value in ours.items()}


@functools.partial(jax.jit, static_argnums=0)
def _run(config: OwlConfig, params: Any, args: dict[str, Any]) -> tuple[jax.Array, Any]:
    mask = self_attention_mask(args["positions"], args["segment_ids"])
    mask = dataclasses.replace(mask, key_segments=args["key_segments"])

    def emptied(method: Any, inputs: Any, options: Any, context: Any) -> Any:
        """mPLUG-Owl2 fills its shorter rows with embeddings of zeros, not of the padding's id."""
        result = method(*inputs, **options)
        is_model = isinstance(context.module, VisionLanguageModel)
        if is_model and context.method_name == "embed" and "filling" in args:
            result = jnp.where(args["filling"][:, :, None], 0.0, result)
        return result

    with nn.intercept_methods(emptied):
        logits, state = VisionLanguageModel(config, Compute()).apply(
            variables(params),
            args["input_ids"],
            args["images"],
            args["videos"],
            args["media_index"],
            mask,
            mutable=["intermediates"],
            capture_intermediates=lambda module, _: isinstance(module, Clip | Abstractor | Decoder),
        )
    state = state["intermediates"]
    if "vision" in state:
        encoded = state["vision"]["__call__"][0]
        state["vision"]["pooled"] = pooled_class_token(encoded, params["vision"], config.vision)
    return logits, state


def _trace(config: OwlConfig, params: Any, args: dict[str, Any]) -> Arrays:
    """All arrays of one run under the original's names; media in reading order, no empty slots."""
    logits, state = _run(config, params, args)
    traced = {"logits": logits, "inputs_embeds": state["embeddings"][0]}
    traced |= _per_layer("lm_layer", state["llm"]["layers"]["output"][0])
    if "__call__" in state["llm"]:
        traced["lm_final_hidden"] = state["llm"]["__call__"][0][0]
    if (args["images"] is None) == (args["videos"] is None):
        return traced

    first = config.num_tokens("image") * np.arange(logits.shape[1] // config.num_tokens("image"))
    used = (args["media_index"][:, :, None] == first).any(axis=1)
    media = args["images"][:, :, None] if args["videos"] is None else args["videos"]
    used = used[:, : media.shape[1]].reshape(-1)

    def chosen(array: Any) -> np.ndarray:
        """[slots * T, ...] or [slots, ...] -> [used slots, (T,) ...]."""
        array = np.asarray(array)
        frames = len(array) // len(used)
        return array.reshape(len(used), *(() if frames == 1 else (frames,)), *array.shape[1:])[used]

    vision, abstractor = state["vision"], state["connector"]
    traced |= {
        "vision_embeddings": chosen(vision["embeddings"][0]),
        "vision_last_hidden_state": chosen(vision["__call__"][0]),
        "vision_pooler_output": chosen(vision["pooled"]),
        "abstractor_output": chosen(abstractor["__call__"][0]),
    }
    layers = [
        ("vision_layer", vision["layers"]["output"][0]),
        ("abstractor_layer", abstractor["layers"]["output"][0]),
    ]
    if "temporal" in vision["layers"]:
        layers.append(("temporal", vision["layers"]["temporal"]["output"][0]))
        traced["embeddings"] = traced["vision_embeddings"]
    for name, stacked in layers:
        traced |= {key: chosen(value) for key, value in _per_layer(name, stacked).items()}
    return traced


def _per_layer(name: str, stacked: Any) -> Arrays:
    return {f"{name}{i}": value for i, value in enumerate(stacked)}


@functools.cache
def gradients(case: str, compute: Compute) -> Any:
    """The loss's gradient with respect to the whole tree."""
    config, params = model(case)
    targets, mask = targets_and_mask(case)

    def loss(params: Any) -> jax.Array:
        return mean_loss(forward(config, compute, params, **run_rows(case)), targets, mask)

    return jax.jit(jax.grad(loss))(params)


def pooled_class_token(encoded: jax.Array, params: Any, config: ClipConfig) -> jax.Array:
    """The original's pooler output [N, D]: post_norm again, on the class token's mean over T."""
    norm = LayerNorm(config.layer_norm_eps, ("vision_embed",))
    pooled: Any = norm.apply({"params": params["post_norm"]}, encoded[:, :, 0].mean(axis=1))
    return pooled
