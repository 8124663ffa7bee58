"""Bytes that a program reads from the device's main memory: what bounds a decoded token.

What a step reads of an operand is the operand, or the slices that it cuts out of it. Operands that
are on the chip were read when they were copied there. Reading twice in one step is not seen.
"""

from __future__ import annotations

from owl_jax.aot.hlo import Computation, Instruction, Module
from owl_jax.aot.runs import Runs

# These hand arrays on and read nothing themselves.
_FREE = frozenset(
    (
        *("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "opt-barrier"),
        *("while", "call", "conditional", "after-all", "partition-id", "replica-id"),
    )
)
_SLICES = ("dynamic-slice", "slice", "gather", "slice-start")
# Of a fusion, these need all of their operands, whatever is needed of them.
_WHOLE = ("dot", "convolution", "reduce", "sort", "scatter", "custom-call")


def bytes_read(runs: Runs) -> int:
    """Of one run of the program."""
    return sum(
        count * of_step(runs.module, computation, instruction)
        for computation, instruction, count in runs.steps()
    )


def of_step(module: Module, computation: Computation, step: Instruction) -> int:
    """What one step reads."""
    if step.opcode in _FREE or step.opcode.endswith(("-done", "-update")):
        return 0
    total = 0
    for number, operand in enumerate(computation.operands(step)):
        if any(array.space == 0 for array in operand.arrays):
            share = _of_operand(module, step, number, operand, _count(step)) / _count(operand)
            total += round(operand.nbytes * share)
    return total


def _of_operand(
    module: Module, user: Instruction, number: int, operand: Instruction, wanted: int
) -> int:
    """How many elements of its operand number `number` an instruction needs for `wanted` of its
    own."""
    whole = _count(operand)
    if user.opcode in _SLICES and number == 0:
        # A slice-start's result is (operand, slice, semaphore).
        return user.arrays[1 if user.opcode == "slice-start" else 0].elements
    if user.opcode == "dynamic-update-slice" and number == 0:
        return 0  # written in place
    if user.opcode == "fusion":
        (fused,) = module.called(user)
        return _inside(module, fused, fused.parameter(number), wanted, {})
    is_by_element = _count(user) == whole and user.opcode not in _WHOLE
    return min(wanted, whole) if is_by_element else whole


def _inside(
    module: Module, fused: Computation, value: Instruction, wanted: int, known: dict[str, int]
) -> int:
    """How many elements of a value inside a fusion are needed for `wanted` of the fusion's.

    A fusion computes an element when it is asked for: of what is converted and then sliced, it
    needs the slice. known: what was found before, by name.
    """
    if value.name not in known:
        total = wanted if value.is_root else 0
        for user in fused.instructions:
            for number, name in enumerate(user.operands):
                if name != value.name:
                    continue
                if user.opcode != "tuple":
                    of_user = _inside(module, fused, user, wanted, known)
                    total += _of_operand(module, user, number, value, of_user)
                elif value.opcode != "parameter":  # one that is handed through is not read
                    total += _count(value)
        known[value.name] = min(total, _count(value))
    return known[value.name]


def _count(value: Instruction) -> int:
    return max(sum(array.elements for array in value.arrays), 1)
