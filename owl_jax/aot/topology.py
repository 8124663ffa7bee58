"""Abstract devices of a TPU slice to compile for: "v5e:8x8" -> 64 devices."""

from __future__ import annotations

import importlib.util
import math
import re
from dataclasses import dataclass
from typing import Any

import jax
from jax.experimental import topologies

from owl_jax.errors import UserError, one_line
from owl_jax.parallel.chips import CHIPS, Chip

# The shapes that Google sells (cloud.google.com/tpu/docs/v5e, v6e, v4, v5p). Sides of v4 and v5p
# may also be multiples of 4, in ascending order, up to _MOST_CHIPS in all and _LONGEST per side.
_FLAT = ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
_SOLID = ("2x2x1", "2x2x2", "2x2x4", "2x4x4")
_MOST_CHIPS = {"v4": 4096, "v5p": 6144}
_LONGEST = {"v4": 16, "v5p": 28}

# The largest training run that Google has published used 50,000 v5e chips, 200 slices of 256
# (cloud.google.com/blog/products/compute, 8 November 2023).
_MOST_SLICES = 256


@dataclass(frozen=True)
class Topology:
    """One or several equal slices of a TPU.

    name: "v5e:8x8". shape: chips along each dimension of a slice's grid.
    devices: of all slices, one per chip, for compiling only.
    """

    name: str
    chip: Chip
    shape: tuple[int, ...]
    slices: int
    devices: tuple[jax.Device, ...]


def open_topology(name: str, slices: int = 1) -> Topology:
    """Opens `slices` slices of the chip and shape in `name`.

    Raises UserError for an unknown name or shape, too many slices, or if libtpu is missing.
    """
    chip, shape = parse(name)
    if not 1 <= slices <= _MOST_SLICES:
        raise UserError(f"{slices} slices: expected 1 to {_MOST_SLICES}")
    options: dict[str, Any] = {"num_slices": slices} if slices > 1 else {}
    if chip.name == "v4":
        options["chip_config_name"] = "megacore"  # both cores of a chip as one device, as JAX runs
    if math.prod(shape) == 1:
        options["chips_per_host_bounds"] = (1,) * 3  # four by default
    if importlib.util.find_spec("libtpu") is None:
        raise UserError(
            "compiling for a TPU needs libtpu, which is not installed: pip install 'owl_jax[tpu]'"
        )
    try:
        description = topologies.get_topology_desc(topology_name=name, platform="tpu", **options)
    except RuntimeError as error:
        raise UserError(f"topology {name!r}: libtpu refuses it: {one_line(error)}") from error
    return Topology(name, chip, shape, slices, tuple(description.devices))


def parse(name: str) -> tuple[Chip, tuple[int, ...]]:
    """Parses "v5e:8x8" or "v5p:4x4x4" to a chip and a shape. Raises UserError."""
    kind, _, layout = name.partition(":")
    if kind not in CHIPS:
        raise UserError(
            f"topology {name!r}: expected one of {', '.join(CHIPS)} and a shape, as in v5e:8x8"
        )
    chip = CHIPS[kind]
    solid = chip.dimensions == 3
    if layout not in (_SOLID if solid else _FLAT) and not (solid and _is_cubes(kind, layout)):
        shapes = ", ".join(_FLAT)
        if solid:
            shapes = (
                f"{', '.join(_SOLID)}, and sides that are multiples of 4, in ascending order, up "
                f"to {_MOST_CHIPS[kind]:,} chips"
            )
        raise UserError(
            f"topology {name!r}: {kind} is sold as {shapes}; write one as in "
            f"{kind}:{'4x4x4' if solid else '8x8'}, and take more chips with --slices"
        )
    return chip, tuple(int(side) for side in layout.split("x"))


def _is_cubes(kind: str, layout: str) -> bool:
    """Whether a shape such as "4x4x8" consists of cubes of 4x4x4 chips, in Google's notation."""
    if not re.fullmatch(r"[1-9][0-9]{0,3}(x[1-9][0-9]{0,3}){2}", layout):
        return False
    sides = [int(side) for side in layout.split("x")]
    whole = all(side % 4 == 0 for side in sides)
    largest = sides[-1] <= _LONGEST[kind] and math.prod(sides) <= _MOST_CHIPS[kind]
    return whole and largest and sides == sorted(sides)
