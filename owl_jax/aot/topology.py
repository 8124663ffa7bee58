"""The devices of a TPU slice that is not there: "v5e:8x8" -> 64 of them, to compile for."""

from __future__ import annotations

import importlib.util
import math
import re
from dataclasses import dataclass
from typing import Any

import jax
from jax.experimental import topologies

from owl_jax.errors import UserError
from owl_jax.parallel.chips import CHIPS, Chip


@dataclass(frozen=True)
class Topology:
    """One or several equal slices of a TPU.

    name: "v5e:8x8". shape: chips along each dimension of a slice's grid.
    devices: of all slices, one for each chip; they can be compiled for and nothing else.
    """

    name: str
    chip: Chip
    shape: tuple[int, ...]
    slices: int
    devices: tuple[jax.Device, ...]


def open_topology(name: str, slices: int = 1) -> Topology:
    """Describes `slices` slices of the shape that `name` gives.

    Raises UserError for a name that is none, and where libtpu is not installed.
    """
    chip, shape = parse(name)
    if slices < 1:
        raise UserError(f"{slices} slices; expected at least 1")
    options: dict[str, Any] = {"num_slices": slices} if slices > 1 else {}
    if chip.name == "v4":
        options["chip_config_name"] = "megacore"  # both cores of a chip as one device, as JAX runs
    if math.prod(shape) == 1:
        options["chips_per_host_bounds"] = (1,) * 3  # four by default
    if importlib.util.find_spec("libtpu") is None:
        raise UserError(
            "compiling for a TPU needs its compiler, libtpu, which is not installed: "
            "pip install 'owl_jax[tpu]'"
        )
    try:
        description = topologies.get_topology_desc(topology_name=name, platform="tpu", **options)
    except RuntimeError as error:
        raise UserError(f"topology {name!r} is no slice of a {chip.name}: {error}") from error
    return Topology(name, chip, shape, slices, tuple(description.devices))


def parse(name: str) -> tuple[Chip, tuple[int, ...]]:
    """The chip and the shape of "v5e:8x8" or "v5p:4x4x4". Raises UserError."""
    kind, _, layout = name.partition(":")
    if kind not in CHIPS:
        raise UserError(
            f"topology {name!r}: expected one of {', '.join(CHIPS)} and a shape, as in v5e:8x8"
        )
    chip = CHIPS[kind]
    example = "x".join("4" * chip.dimensions)
    if not re.fullmatch(r"[1-9]\d*(x[1-9]\d*)*", layout):
        raise UserError(f"topology {name!r}: expected a shape such as {kind}:{example}")
    shape = tuple(int(size) for size in layout.split("x"))
    if len(shape) != chip.dimensions:
        raise UserError(
            f"topology {name!r}: a slice of {kind} has {chip.dimensions} dimensions, as in "
            f"{kind}:{example}"
        )
    return chip, shape
