"""Counts the bytes that a program reads from HBM, which limit decoding speed.

A step is one HLO instruction. It reads each operand in full, or only the slices that it uses.
Operands in on-chip memory are not counted again: they were counted when they were copied there.
Repeated reads within one step are not counted. The ragged decode kernel reads the slots of the
cache that hold a token, by assumption half of them (`FILL` in aot/work.py).
"""

from __future__ import annotations

from owl_jax.aot import work
from owl_jax.aot.hlo import Computation, Instruction, Module
from owl_jax.aot.runs import Runs, trip_count

# These pass arrays on without reading them.
_FREE = frozenset(
    (
        *("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "opt-barrier"),
        *("while", "call", "conditional", "after-all", "partition-id", "replica-id"),
    )
)
_SLICES = ("dynamic-slice", "slice", "gather", "slice-start")
# The result has the memory of operand 0. Where it cannot, the compiler adds a copy.
_IN_PLACE = ("dynamic-update-slice", "scatter")
# Inside a fusion, these need their operands in full for any part of the result.
_WHOLE = ("dot", "convolution", "reduce", "sort", "scatter", "custom-call")


def bytes_read(runs: Runs) -> int:
    """Bytes read in one run of the program. A conditional counts as the branch that reads most."""
    start = next(iter(runs.scheduled))
    return _of_computation(runs.module, runs.module.computations[start])


def _of_computation(module: Module, computation: Computation) -> int:
    total = 0
    for step in computation.instructions:
        total += of_step(module, computation, step)
        if step.opcode == "while":
            trips = trip_count(module, computation, step)
            once = _of_computation(module, module.computations[step.attribute("body") or ""])
            total += once if trips is None else trips * once
        elif step.opcode in ("call", "conditional"):
            total += max(_of_computation(module, called) for called in module.called(step))
    return total


def of_step(module: Module, computation: Computation, step: Instruction) -> int:
    """Bytes that one step reads."""
    if step.opcode in _FREE or step.opcode.endswith(("-done", "-update")):
        return 0
    total, operands = 0, computation.operands(step)
    for number, operand in enumerate(operands):
        if any(array.space == 0 for array in operand.arrays):
            needed = None
            if work.is_kernel(step):
                needed = work.elements_read(step, [each.arrays[0] for each in operands], number)
            if needed is None:
                needed = _of_operand(module, step, number, operand, _count(step), True)
            total += round(operand.nbytes * needed / _count(operand))
    return total


def _of_operand(
    module: Module,
    user: Instruction,
    number: int,
    operand: Instruction,
    wanted: int,
    is_result: bool,
) -> int:
    """How many elements of operand `number` are needed to compute `wanted` elements of `user`.

    is_result: `user` produces the output of the whole step, not an intermediate value.
    """
    whole = _count(operand)
    if user.opcode in _SLICES and number == 0:
        # A slice-start's result is (operand, slice, semaphore).
        return user.arrays[1 if user.opcode == "slice-start" else 0].elements
    if user.opcode in _IN_PLACE and number == 0:
        return 0 if is_result else wanted  # a result is updated in place
    if user.opcode == "fusion":
        (fused,) = module.called(user)
        return _inside(module, fused, fused.parameter(number), wanted, is_result, {})
    is_by_element = _count(user) == whole and user.opcode not in _WHOLE
    return min(wanted, whole) if is_by_element else whole


def _inside(
    module: Module,
    fused: Computation,
    value: Instruction,
    wanted: int,
    is_result: bool,
    known: dict[str, int],
) -> int:
    """How many elements of `value` are needed to compute `wanted` elements of its fusion.

    A fusion computes elements on demand: if a value is converted and then sliced, only the slice
    is needed. is_result: the fusion produces the output of the step. known: results by the value's
    name.
    """
    if value.name not in known:
        total = wanted if value.is_root else 0
        for user in fused.instructions:
            for number, name in enumerate(user.operands):
                if name != value.name:
                    continue
                if user.opcode == "tuple":
                    # A parameter that is passed through is not read.
                    total += 0 if value.opcode == "parameter" else _count(value)
                    continue
                of_user = _inside(module, fused, user, wanted, is_result, known)
                returned = is_result and _is_returned(fused, user)
                total += _of_operand(module, user, number, value, of_user, returned)
        known[value.name] = min(total, _count(value))
    return known[value.name]


def _is_returned(fused: Computation, value: Instruction) -> bool:
    """Whether a value inside a fusion is its result and has no other use."""
    users = [user for user in fused.instructions if value.name in user.operands]
    return all(user.opcode in ("bitcast", "tuple") and _is_returned(fused, user) for user in users)


def _count(value: Instruction) -> int:
    return max(sum(array.elements for array in value.arrays), 1)
