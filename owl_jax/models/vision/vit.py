"""Code that the vision transformers share: patches, the pre-norm block, config.json, tensors.

Letters: N media, T frames, P patches, D width, H heads, K head width, F MLP width.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from msgspec import Struct

from owl_jax.models.attention.dispatch import attend
from owl_jax.models.bounds import Epsilon, Heads, Layers, Pixels, Size
from owl_jax.models.compute import Compute
from owl_jax.models.hf_config import Source
from owl_jax.models.layers import LayerNorm, Projection
from owl_jax.models.parts import Path, VisionPart
from owl_jax.models.remat import named
from owl_jax.models.transforms import Shape, Slices
from owl_jax.models.vision.positions import fits, interpolated
from owl_jax.models.weight_names import Row, layer_norm, weight_and_bias

_POST_NORM = "vision_model.post_layernorm"

# Fields of an encoder's config, and their keys in config.json.
_HF_NAMES = {
    "image_size": "image_size",
    "patch_size": "patch_size",
    "hidden_size": "hidden_size",
    "intermediate_size": "intermediate_size",
    "num_layers": "num_hidden_layers",
    "num_heads": "num_attention_heads",
    "layer_norm_eps": "layer_norm_eps",
}


def patches_of(pixels: jax.Array, patch_size: int) -> jax.Array:
    """[N, height, width, 3] -> [N, P, p * p * 3], row by row.

    Pixels at the right and bottom edges that do not fill a patch are dropped, as in a convolution
    without padding.
    """
    p = patch_size
    N, rows, columns = pixels.shape[0], pixels.shape[1] // p, pixels.shape[2] // p
    patches = pixels[:, : rows * p, : columns * p].reshape(N, rows, p, columns, p, 3)
    return patches.swapaxes(2, 3).reshape(N, rows * columns, p * p * 3)


def attention_and_mlp(
    x: jax.Array,
    num_heads: int,
    mlp_size: int,
    eps: float,
    activation: Callable[[jax.Array], jax.Array],
    compute: Compute,
) -> jax.Array:
    """A pre-norm transformer block on [N, S, D]; call it in a module's compact method.

    It creates the submodules attention_norm, qkv, out, mlp_norm, up and down.
    """
    D, H = x.shape[-1], num_heads
    embed, heads = {"vision_embed": D}, {"heads": H, "kv": D // H}
    norm = partial(LayerNorm, eps, ("vision_embed",))
    biased = partial(Projection, use_bias=True, dtype=compute.dtype)
    y = norm(name="attention_norm")(x)
    # The fused projection keeps q, k and v of a head together: [H, 3, K].
    fused_axes = {"heads": H, None: 3, "kv": D // H}
    fused = jnp.moveaxis(biased(embed, fused_axes, name="qkv")(y), -2, 0)
    q, k, v = map(named, ("query", "key", "value"), fused)
    y = attend(q, k.swapaxes(1, 2), v.swapaxes(1, 2), implementation=compute.attention)
    x += named("attention", biased(heads, embed, name="out")(y))
    y = norm(name="mlp_norm")(x)
    mlp = {"mlp": mlp_size}
    up = named("up", biased(embed, mlp, name="up")(y))
    return x + biased(mlp, embed, name="down")(named("mlp", activation(up)))


class VitConfig(VisionPart):
    """What the encoders share, whose layers all have `attention_and_mlp`."""

    patch_size: Any
    intermediate_size: Any
    post_norm: Any

    @property
    def grid(self) -> tuple[int, int]:
        side = self.image_size // self.patch_size
        return side, side

    def taken_from(self, params: Mapping[str, Any]) -> dict[str, Any]:
        return dict(params) if self.post_norm else first_layers_of(params, self.num_layers)

    def num_parameters(self) -> float:
        width = 4 * self.hidden_size + 2 * self.intermediate_size
        return self.hidden_size * (self.num_layers * width + math.prod(self.grid))

    def refitted(self, path: Path, value: np.ndarray, shape: tuple[int, ...]) -> np.ndarray | None:
        if path != ("positions",) or value.shape[1:] != shape[1:]:
            return None
        return interpolated(value, shape[0]) if fits(len(value), shape[0]) else None


class HfVit(Struct, frozen=True):
    """Keys of CLIPVisionConfig and SiglipVisionConfig (transformers 4 and 5); CLIP's defaults."""

    image_size: Pixels = 224
    patch_size: Pixels = 32
    hidden_size: Size = 768
    intermediate_size: Size = 3072
    num_hidden_layers: Layers = 12
    num_attention_heads: Heads = 12
    layer_norm_eps: Epsilon = 1e-5
    hidden_act: str = "quick_gelu"
    num_channels: int = 3


def sizes_from_hf(source: Source, values: HfVit, activation: str) -> dict[str, Any]:
    """An encoder's config fields, read from config.json. Raises UserError for unsupported values.

    activation: the only `hidden_act` that the encoder computes.
    """
    source.expect("hidden_act", values.hidden_act, activation, "the vision encoder")
    source.expect("num_channels", values.num_channels, 3, "the vision encoder")
    return {name: getattr(values, key) for name, key in _HF_NAMES.items()}


def sizes_to_hf(config: Any, activation: str) -> dict[str, Any]:
    """The inverse of `sizes_from_hf`."""
    return {
        **{key: getattr(config, name) for name, key in _HF_NAMES.items()},
        "hidden_act": activation,
    }


def layer_rows(post_norm: bool) -> list[Row]:
    """The tensors of all layers, and of the norm after the last one if there is one."""
    layer, ours = "vision_model.encoder.layers.{i}", "vision/layers"
    fused = [
        row
        for name in "qkv"
        for row in weight_and_bias(f"{layer}.self_attn.{name}_proj", f"{ours}/qkv")
    ]
    return [
        *layer_norm(f"{layer}.layer_norm1", f"{ours}/attention_norm"),
        *fused,
        *weight_and_bias(f"{layer}.self_attn.out_proj", f"{ours}/out", num_in_axes=2),
        *layer_norm(f"{layer}.layer_norm2", f"{ours}/mlp_norm"),
        *weight_and_bias(f"{layer}.mlp.fc1", f"{ours}/up"),
        *weight_and_bias(f"{layer}.mlp.fc2", f"{ours}/down"),
        *(layer_norm(_POST_NORM, "vision/post_norm") if post_norm else ()),
    ]


def num_layers_at(num_layers: int, layer: int) -> int:
    """How many layers produce the hidden state `layer`, in transformers' numbering.

    State 0 is the input of the first layer, -1 the output of the last. Raises ValueError for 0 and
    for a state that does not exist.
    """
    count = layer if layer >= 0 else num_layers + 1 + layer
    if not 1 <= count <= num_layers:
        raise ValueError(f"layer {layer}; expected 1 to {num_layers}, or -{num_layers} to -1")
    return count


def follows_layer(tensor: str, num_layers: int) -> bool:
    """Whether a tensor, in transformers' names, comes after the first `num_layers` layers.

    The prefix "vision_model." may be missing.
    """
    layer = re.match(r"(?:vision_model\.)?encoder\.layers\.(\d+)\.", tensor)
    if layer:
        return int(layer[1]) >= num_layers
    return tensor.removeprefix("vision_model.").startswith(_POST_NORM.removeprefix("vision_model."))


def first_layers_of(params: Mapping[str, Any], num_layers: int) -> dict[str, Any]:
    """The parameters with only the first `num_layers` layers and without the post norm.

    The layers' arrays stay lazy (checkpoint/lazy_arrays.py).
    """
    kept = {name: subtree for name, subtree in params.items() if name != "post_norm"}
    cut = partial(_FirstLayers, num_layers=num_layers)
    return {**kept, "layers": jax.tree.map(cut, params["layers"])}


@dataclass(frozen=True)
class _FirstLayers:
    """The first layers of a stack: a lazy array."""

    array: Any
    num_layers: int

    @property
    def dtype(self) -> Any:
        return self.array.dtype

    @property
    def shape(self) -> Shape:
        shape = self.array.shape
        return (min(self.num_layers, shape[0]), *shape[1:])

    def __getitem__(self, part: Slices) -> Any:
        return self.array[part]
