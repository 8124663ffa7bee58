"""Collectives: kind, count and bytes, within a slice (ICI) and between slices (DCN).

The bytes of a collective are those of its larger side on one device: the output of an all-gather,
the operand of an all-reduce, the input of a reduce-scatter.

The TPU compiler transforms collectives in three ways, which this module undoes:
  - it splits a collective into steps inside fusions of other work; these share a channel and are
    counted as one collective;
  - it turns a reduce-scatter into an all-reduce inside a fusion with a special name;
  - it sends transfers between slices through the hosts, as a send and a receive that name the
    collective.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from owl_jax.aot.hlo import Computation, Instruction, Module
from owl_jax.aot.replica_groups import first_group
from owl_jax.aot.runs import Runs
from owl_jax.aot.topology import Topology
from owl_jax.parallel.chips import Chip

KINDS = (
    "all-gather",
    "all-reduce",
    "reduce-scatter",
    "all-to-all",
    "ragged-all-to-all",
    "collective-permute",
    "collective-broadcast",
)
_BETWEEN_SLICES = ("send", "recv")
_REDUCE_SCATTER = "all-reduce-scatter"  # prefix of such a fusion's computation


@dataclass(frozen=True)
class Collective:
    """One collective of the program.

    key: shared by all its parts in the HLO. runs: how often it runs. nbytes: per run.
    group: device ids of its first group; the others are alike. Empty for transfers between slices
      through the hosts.
    """

    key: str
    kind: str
    runs: int
    nbytes: int
    group: tuple[int, ...]


@dataclass(frozen=True)
class Route:
    """How the devices of a group are connected.

    size: number of devices or slices. links: ICI ports of a chip to the others; 0 between slices.
    """

    size: int
    links: int

    @property
    def network(self) -> str:
        return "ICI" if self.links else "DCN"


def find(runs: Runs, devices: int) -> list[Collective]:
    """All collectives of a program for `devices` devices."""
    found = []
    for name, count in runs.scheduled.items():
        scheduled = runs.module.computations[name]
        seen: set[str] = set()
        for step in scheduled.instructions:
            for computation, part in parts(runs.module, scheduled, step):
                if key(part) not in seen and part.opcode != "recv":
                    seen.add(key(part))
                    found.append(_collective(computation, part, count, devices))
    return found


def parts(
    module: Module, computation: Computation, step: Instruction
) -> Iterator[tuple[Computation, Instruction]]:
    """The collectives, or parts of them, in a step, each with its computation.

    Does not follow calls and conditionals: the computations they call are scheduled separately.
    """
    if is_part(step):
        yield computation, step
    for called in module.called(step) if step.opcode not in ("call", "conditional") else ():
        for instruction in called.instructions:
            yield from parts(module, called, instruction)


def is_part(instruction: Instruction) -> bool:
    """Whether an instruction is a collective, its start, or a step of it."""
    if instruction.opcode in _BETWEEN_SLICES:
        return "megascale" in instruction.attributes
    return instruction.opcode.removesuffix("-start") in KINDS


def key(part: Instruction) -> str:
    """The identity of a collective."""
    if part.opcode in _BETWEEN_SLICES:
        return f"between slices {part.attribute('_xla_host_transfer_rendezvous')}"
    channel = part.attribute("channel_id")
    return part.name if channel is None else f"channel {channel}"


def route(collective: Collective, devices: np.ndarray, topology: Topology) -> Route:
    """The network of a collective. devices: the mesh's, in the order of their ids in the program.

    Along a dimension of the grid, a chip has two links if the group spans a closed ring. Otherwise
    one link counts: the chips at the ends have only one, and the others wait for them.
    """
    members = [devices[number] for number in collective.group]
    slices = {getattr(device, "slice_index", 0) for device in members}
    if len(slices) != 1:
        return Route(len(slices) or topology.slices, 0)
    grid = np.array([device.coords[: topology.chip.dimensions] for device in members])
    links = 0
    for coordinates, whole in zip(grid.T, topology.shape, strict=True):
        extent = len(set(coordinates.tolist()))
        is_ring = extent == whole and whole % topology.chip.ring_size == 0
        links += 0 if extent == 1 else 2 if is_ring else 1
    return Route(len(members), max(links, 1))


def seconds(collective: Collective, route: Route, chip: Chip) -> float:
    """Transfer time without contention: bytes over bandwidth.

    Each device receives (n - 1) / n of the whole, twice in an all-reduce.
    """
    bandwidth = route.links * chip.link_bandwidth or chip.dcn_bandwidth
    if collective.kind == "collective-permute":
        return collective.nbytes / bandwidth
    rounds = 2 if collective.kind == "all-reduce" else 1
    return rounds * collective.nbytes * (route.size - 1) / route.size / bandwidth


def _collective(computation: Computation, part: Instruction, runs: int, devices: int) -> Collective:
    operand_bytes = sum(operand.nbytes for operand in computation.operands(part))
    if part.opcode == "send":
        kind = (part.attribute("_xla_megascale_transfer_type") or "").lower().replace("_", "-")
        return Collective(key(part), kind, runs, operand_bytes, ())
    kind, result_bytes = part.opcode.removesuffix("-start"), part.nbytes
    if part.opcode.endswith("-start") and kind != "all-reduce":
        result_bytes = max(array.nbytes for array in part.arrays)  # the result holds operands too
    if kind == "all-reduce" and re.match(_REDUCE_SCATTER, computation.name):
        kind = "reduce-scatter"
    nbytes = max(result_bytes, operand_bytes)
    return Collective(key(part), kind, runs, nbytes, first_group(part, devices))
