"""Counts how often each computation of a compiled program runs.

XLA's cost analysis counts a loop body once. This module multiplies by the trip counts of all loops
around a computation.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from owl_jax.aot.hlo import Computation, Instruction, Module


@dataclass
class Runs:
    """Runs of computations per run of a program.

    scheduled: computations whose instructions are steps of the device: the entry, loop bodies and
      their callees.
    inside: these and computations inside fusions and asynchronous operations.
    unknown: loops whose trip count is not in the text; they count once.
    """

    module: Module
    scheduled: dict[str, int] = field(default_factory=dict)
    inside: dict[str, int] = field(default_factory=dict)
    unknown: list[str] = field(default_factory=list)

    def steps(self) -> Iterator[tuple[Computation, Instruction, int]]:
        """Every step with its number of runs."""
        yield from self._instructions(self.scheduled)

    def everything(self) -> Iterator[tuple[Computation, Instruction, int]]:
        """Every step, and every instruction inside a step, with its number of runs."""
        yield from self._instructions(self.inside)

    def _instructions(
        self, counts: dict[str, int]
    ) -> Iterator[tuple[Computation, Instruction, int]]:
        for name, count in counts.items():
            computation = self.module.computations[name]
            for instruction in computation.instructions:
                yield computation, instruction, count


def count_runs(module: Module, start: str | None = None) -> Runs:
    """Follows the calls from the computation `start`, by default the entry.

    All branches of a conditional count as taken.
    """
    first = start or module.entry.name
    runs = Runs(module, {first: 1}, {first: 1})
    # Callees precede callers, so in reverse order a computation's count is complete when visited.
    for computation in reversed(list(module.computations.values())):
        count = runs.inside.get(computation.name, 0)
        is_scheduled = computation.name in runs.scheduled
        for instruction in computation.instructions if count else ():
            called, times = instruction.called, count
            if instruction.opcode == "while":
                trips = trip_count(module, computation, instruction)
                if trips is None:
                    runs.unknown.append(instruction.name)
                called = (_body(instruction),)
                times *= 1 if trips is None else trips
            for name in called:
                runs.inside[name] = runs.inside.get(name, 0) + times
                if is_scheduled and instruction.opcode in ("while", "call", "conditional"):
                    runs.scheduled[name] = runs.scheduled.get(name, 0) + times
    return runs


def endless_loop(module: Module) -> str | None:
    """The body of the entry's loop whose trip count is not in the text, if there is one."""
    for instruction in module.entry.instructions:
        if instruction.opcode == "while" and trip_count(module, module.entry, instruction) is None:
            return _body(instruction)
    return None


def trip_count(module: Module, computation: Computation, loop: Instruction) -> int | None:
    """How often a loop body runs, from the compiler's annotation or from the condition.

    The condition must compare a counter, an element of the loop's tuple, with a constant; the
    counter starts at a constant and grows by a constant. None for any other loop.
    """
    noted = re.search(r'"known_trip_count":\s*\{\s*"n":\s*"?(\d+)', loop.attributes)
    if noted:
        return int(noted[1])
    compare, arguments = _comparison(module, module.computations[loop.attribute("condition") or ""])
    direction = None if compare is None else compare.attribute("direction")
    if direction not in ("LT", "LE"):
        return None
    counter, bound = arguments
    limit = _number(bound)
    if limit is None or counter.opcode != "get-tuple-element":
        return None
    index = int(counter.attribute("index") or 0)
    span = limit - _first_value(computation, loop, index) + (direction == "LE")
    return max(math.ceil(span / _growth(module, module.computations[_body(loop)], index)), 0)


def _comparison(
    module: Module, condition: Computation
) -> tuple[Instruction | None, list[Instruction]]:
    """The comparison of a condition, which may be fused, and its two operands."""
    root = condition.root
    arguments = condition.operands(root)
    if root.opcode == "fusion":
        (fused,) = module.called(root)
        compared = fused.operands(fused.root)
        if any(value.opcode != "parameter" for value in compared):
            return None, []
        root, arguments = fused.root, [arguments[int(value.literal)] for value in compared]
    return (root, arguments) if root.opcode == "compare" else (None, [])


def _first_value(computation: Computation, loop: Instruction, index: int) -> int:
    """The counter's initial value; 0 if it is not in the text, as in scans."""
    (initial,) = computation.operands(loop)
    if initial.opcode != "tuple":
        return 0
    value = computation.by_name[initial.operands[index]]
    while value.opcode in ("copy", "bitcast"):
        (value,) = computation.operands(value)
    return _number(value) or 0


def _growth(module: Module, body: Computation, index: int) -> int:
    """The counter's increment per iteration; 1 if it is not in the text."""
    if body.root.opcode != "tuple":
        return 1
    value = body.by_name[body.root.operands[index]]
    while value.opcode in ("copy", "bitcast"):
        (value,) = body.operands(value)
    added = body.operands(value)
    if value.opcode == "fusion":
        (fused,) = module.called(value)
        value, given = fused.root, added
        added = [
            given[int(part.literal)] if part.opcode == "parameter" else part
            for part in fused.operands(value)
        ]
    numbers = [_number(part) for part in added] if value.opcode == "add" else []
    return next((number for number in numbers if number), 1)


def _number(instruction: Instruction) -> int | None:
    is_number = instruction.opcode == "constant" and re.fullmatch(r"-?\d+", instruction.literal)
    return int(instruction.literal) if is_number else None


def _body(loop: Instruction) -> str:
    return loop.attribute("body") or ""
