"""Rows of the table that maps released tensors to our parameters, in both directions.

Each part and family lists its rows. `{i}` is the layer; our parameters stack layers on axis 0.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable
from dataclasses import dataclass

from owl_jax.models.transforms import Flat, Linear, Same, Transform


@dataclass(frozen=True)
class Row:
    """One kind of tensor. `source` contains `{i}` if each layer has one.

    Rows that share a target are stacked, in order, along its second-to-last axis.
    """

    source: str
    target: str
    transform: Transform

    @property
    def per_layer(self) -> bool:
        return "{i}" in self.source


# Buffers, not parameters, that old versions of transformers wrote into checkpoints.
BUFFERS = re.compile(r".*(rotary_emb\.inv_freq|position_ids)")


def weight_and_bias(source: str, target: str, num_in_axes: int = 1) -> list[Row]:
    """The rows of a linear layer."""
    return [
        Row(f"{source}.weight", f"{target}/kernel", Linear(num_in_axes)),
        Row(f"{source}.bias", f"{target}/bias", Flat()),
    ]


def layer_norm(source: str, target: str) -> list[Row]:
    """The rows of a LayerNorm."""
    return [
        Row(f"{source}.weight", f"{target}/scale", Same()),
        Row(f"{source}.bias", f"{target}/bias", Same()),
    ]


def with_prefix(rows: Iterable[Row], prefix: str) -> list[Row]:
    """The rows with `prefix` added to the source names."""
    return [dataclasses.replace(row, source=prefix + row.source) for row in rows]


def without_prefix(rows: Iterable[Row], prefix: str) -> list[Row]:
    """The rows with `prefix` removed from the source names."""
    return [dataclasses.replace(row, source=row.source.removeprefix(prefix)) for row in rows]


def projections(rows: Iterable[Row]) -> dict[str, Row]:
    """The rows of the kernels that LoRA can adapt, those in layers, by projection name."""
    return {
        row.target.split("/")[-2]: row
        for row in rows
        if row.per_layer and row.target.endswith("/kernel")
    }
