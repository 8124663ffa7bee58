"""The form in which decoding reads weights fastest: layers on a CPU, memory layouts on a TPU.

Letters: D width, H heads, K head width.

A TPU stores an array in tiles of its last two axes. A matmul with a kernel [layers, D, H, K] needs
tiles of [D, K]. If the kernel is stored otherwise, as JAX's default is, each call of a program
copies it: of LLaMA-7B over eight chips 1.1 GB a chip.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.layout import Format, Layout

from owl_jax.models.compute import Compute
from owl_jax.models.config import OwlConfig
from owl_jax.models.matmul import bits_of
from owl_jax.models.stack import unstack
from owl_jax.models.transforms import Linear
from owl_jax.models.vlm import Params

Path = tuple[str, ...]


def formats(
    config: OwlConfig, shapes: Mapping[Path, Any], shardings: Mapping[Path, Any], platform: str
) -> dict[Path, Any]:
    """The shardings, with a memory layout for each kernel of the language model on a TPU.

    shapes: all parameters, of any type with `shape`, by path. shardings: by path; a parameter
      without one keeps JAX's layout.
    """
    result = dict(shardings)
    for row in config.llm.weight_rows() if platform == "tpu" else ():
        path = tuple(row.target.split("/"))
        if path[-1] != "kernel" or shardings.get(path) is None:
            continue
        assert isinstance(row.transform, Linear)
        num_axes = len(shapes[path].shape)
        order = list(range(num_axes))
        num_out_axes = num_axes - row.per_layer - row.transform.num_in_axes
        if row.transform.num_in_axes == 1 and num_out_axes > 1:
            order.insert(num_axes - 2, order.pop(int(row.per_layer)))
        result[path] = Format(Layout(tuple(order)), shardings[path])
    return result


def quickest_form(compute: Compute, params: Params) -> tuple[Compute, Params]:
    """Computation settings and the same weights in the form that decodes fastest.

    Layers are unrolled on a CPU (models/stack.py) and scanned elsewhere. Unrolled weights are views
    of the stacked ones where alignment allows it, for all but tiny layers; large bfloat16 weights
    are viewed as integers (models/matmul.py).
    """
    devices = {device for leaf in jax.tree.leaves(params) for device in leaf.devices()}
    device = devices.pop()
    if devices or device.platform != "cpu":
        return compute, params
    views = jax.tree_util.tree_map_with_path(_view, params)
    return dataclasses.replace(compute, scan_layers=False), jax.device_put(unstack(views), device)


def _view(path: tuple[Any, ...], leaf: jax.Array) -> np.ndarray:
    view = np.asarray(leaf)
    *_, parent, name = "", *(key.key for key in path)
    # A temporal kernel is a convolution's.
    is_widened = name == "embedding" or (name == "kernel" and parent != "temporal")
    return bits_of(view) if is_widened and view.dtype == jnp.bfloat16 else view
