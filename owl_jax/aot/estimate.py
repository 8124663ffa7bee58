"""Estimates the time of a run; comparable with other estimates, not with measurements.

The compiler records the cycles that it expects for most operations (`estimated_cycles` in the
scheduled HLO); dividing by the chip's clock gives their time. Pallas kernels, unknown to the
compiler, are assumed to reach 40 % of peak FLOPs, or the memory's full bandwidth if that takes
longer. Collectives run one at a time, overlapped with the operations after their start; only the
time still left when the result is needed counts (exposed).

Known errors: if attention kernels reached 30 or 60 % instead, a stage 2 step would change by 4 %
either way; elementwise operations are estimated about twice too slow; v6e is poorly calibrated.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from owl_jax.aot import collectives, traffic, work
from owl_jax.aot.collectives import Collective
from owl_jax.aot.hlo import Computation, Instruction, Module
from owl_jax.aot.runs import Runs
from owl_jax.aot.topology import Topology
from owl_jax.parallel.chips import Chip

_KERNEL_EFFICIENCY = 0.4
_CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')


@dataclass(frozen=True)
class Estimate:
    """Seconds of one run. wire: of all collectives, hidden or exposed; exposed: not hidden."""

    operations: float = 0.0
    kernels: float = 0.0
    exposed: float = 0.0
    wire: float = 0.0

    @property
    def total(self) -> float:
        return self.operations + self.kernels + self.exposed

    def plus(self, other: Estimate, times: int) -> Estimate:
        return Estimate(
            self.operations + times * other.operations,
            self.kernels + times * other.kernels,
            self.exposed + times * other.exposed,
            self.wire + times * other.wire,
        )


def estimate(
    runs: Runs, exchanged: list[Collective], devices: np.ndarray, topology: Topology
) -> Estimate:
    """Sums all computations, weighted by their runs.

    exchanged: the program's collectives. devices: as in `collectives.route`.
    """
    on_the_wire = {
        item.key: collectives.seconds(
            item, collectives.route(item, devices, topology), topology.chip
        )
        for item in exchanged
    }
    total = Estimate()
    for name, count in runs.scheduled.items():
        computation = runs.module.computations[name]
        once = of_computation(runs.module, computation, on_the_wire, topology.chip)
        total = total.plus(once, count)
    return total


def of_computation(
    module: Module, computation: Computation, on_the_wire: Mapping[str, float], chip: Chip
) -> Estimate:
    """One run of a computation's own steps, without the bodies of its loops."""
    keys = [
        tuple(
            dict.fromkeys(collectives.key(p) for _, p in collectives.parts(module, computation, s))
        )
        for s in computation.instructions
    ]
    needed = _needed(computation, keys)
    now = wire_is_free = operations = kernels = exposed = 0.0
    ends: dict[str, float] = {}
    for number, step in enumerate(computation.instructions):
        for key in keys[number]:
            if key not in ends:
                ends[key] = wire_is_free = max(now, wire_is_free) + on_the_wire.get(key, 0.0)
        if work.is_kernel(step):
            flops = work.kernel_flops(computation, step) or 0.0
            reading = traffic.of_step(module, computation, step) / chip.hbm_bandwidth
            kernel = max(flops / (_KERNEL_EFFICIENCY * chip.peak_flops), reading)
            kernels, now = kernels + kernel, now + kernel
        elif not collectives.is_part(step):
            operation = expected_cycles(step) / chip.clock
            operations, now = operations + operation, now + operation
        for key in needed.get(number, ()):
            waiting = max(ends[key] - now, 0.0)
            exposed, now = exposed + waiting, now + waiting
    return Estimate(operations, kernels, exposed, sum(on_the_wire.get(key, 0.0) for key in ends))


def expected_cycles(step: Instruction) -> int:
    """The cycles that the compiler expects for one step; 0 for a loop."""
    found = None if step.opcode == "while" else _CYCLES.search(step.attributes)
    return int(found[1]) if found else 0


def _needed(computation: Computation, keys: list[tuple[str, ...]]) -> dict[int, list[str]]:
    """{index of a step: collectives that must be complete at its end}.

    keys: of the collectives in each step. A collective completes at its -done; one that is split
    over fusions, at the last of them; any other, at once.
    """
    last: dict[str, int] = {}
    under_way: dict[str, tuple[str, ...]] = {}  # step -> collectives that it starts or continues
    for number, step in enumerate(computation.instructions):
        carried = [under_way[name] for name in step.operands if name in under_way]
        if step.opcode.endswith(("-update", "-done")) and carried:
            under_way[step.name] = carried[0]
        elif keys[number]:
            under_way[step.name] = keys[number]
        else:
            continue
        last |= dict.fromkeys(under_way[step.name], number)
    needed: dict[int, list[str]] = {}
    for key, number in last.items():
        needed.setdefault(number, []).append(key)
    return needed
