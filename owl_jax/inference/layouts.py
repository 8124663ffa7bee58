"""How weights lie in the memory of a TPU, where decoding reads them layer by layer.

Letters: D width, H heads, K head width.

A TPU stores an array in tiles of its last two axes. A matmul with a kernel [layers, D, H, K] needs
tiles of [D, K]. If the kernel is stored otherwise, as JAX's default is, each call of a program
copies it: of LLaMA-7B over eight chips 1.1 GB a chip.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jax.experimental.layout import Format, Layout

from owl_jax.models.config import OwlConfig
from owl_jax.models.transforms import Linear

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
