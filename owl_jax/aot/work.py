"""Floating-point operations of a compiled program: matmuls, and Pallas kernels by formula.

Letters: B rows, L tokens, S slots of a row, H heads, G key heads, K head width.

A multiply-add counts as two. The TPU compiler turns every matmul into a convolution and batch
dimensions into dilated windows; multiplications with a window's padding are not executed, so they
do not count.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from dataclasses import dataclass
from functools import cache

from owl_jax.aot.hlo import Array, Computation, Instruction
from owl_jax.aot.runs import Runs
from owl_jax.models import write_columns
from owl_jax.models.attention import ragged_decode

FILL = 0.5  # share of the cache's slots that hold a token, on average, in decoding
PALLAS = "tpu_custom_call"

# Matmuls of size L x L x K in an attention kernel. fwd: scores and values. dq: scores again, and
# the gradients of probabilities and query. dkv: the same with key and value instead of query.
_MATMULS = {"dkv": 4, "dq": 3, "fwd": 2}


@dataclass(frozen=True)
class Kernel:
    """A Pallas kernel. flops: of all its runs; None without a formula."""

    name: str
    runs: int
    flops: float | None


def matmul_flops(runs: Runs) -> float:
    """FLOPs of all dots and convolutions in one run."""
    return math.fsum(
        count * of_matmul(computation, instruction)
        for computation, instruction, count in runs.everything()
        if instruction.opcode in ("dot", "convolution")
    )


def kernels(runs: Runs) -> list[Kernel]:
    """The Pallas kernels, sorted by name."""
    times: Counter[str] = Counter()
    flops: dict[str, float | None] = {}
    for computation, instruction, count in runs.everything():
        if is_kernel(instruction):
            name = kernel_name(instruction)
            times[name] += count
            work, before = kernel_flops(computation, instruction), flops.get(name, 0.0)
            flops[name] = None if work is None or before is None else before + count * work
    return [Kernel(name, times[name], flops[name]) for name in sorted(times)]


def of_matmul(computation: Computation, instruction: Instruction) -> float:
    """FLOPs of one dot or convolution."""
    (result,) = instruction.arrays
    left, right = (operand.arrays[0] for operand in computation.operands(instruction)[:2])
    if instruction.opcode == "dot":
        contracted = _numbers(instruction.attribute("lhs_contracting_dims") or "")
        return 2.0 * result.elements * math.prod(left.shape[axis] for axis in contracted)
    return _convolution(instruction, left, right, result)


def is_kernel(instruction: Instruction) -> bool:
    """Whether it calls a Pallas kernel."""
    return instruction.attribute("custom_call_target") == PALLAS


def kernel_name(instruction: Instruction) -> str:
    """The kernel's name in JAX's path, ".../NAME/pallas_call"."""
    path = [part for part in instruction.op_name.split("/") if part != "pallas_call"]
    return path[-1] if path else re.sub(r"[.\d]+$", "", instruction.name)


def kernel_flops(computation: Computation, instruction: Instruction) -> float | None:
    """FLOPs of one run of a kernel; None for an unknown one.

    The ragged decode kernel computes scores and values of the slots that hold a token; what writes
    to the cache computes nothing.

    Splash attention computes the score matrix in blocks; under a causal mask, only the blocks that
    touch the lower triangle. Its first operand is a table of the blocks. If the mask is causal, it
    has an int32 operand with the query positions; segment ids are two more int32 operands.
    """
    operands = [operand.arrays[0] for operand in computation.operands(instruction)]
    if kernel_name(instruction) == write_columns.NAME:
        return 0.0
    if kernel_name(instruction) == ragged_decode.NAME:
        (result,) = instruction.arrays
        return FILL * 4.0 * result.elements * _num_slots(operands, result)
    kind = next((kind for kind in _MATMULS if kind in kernel_name(instruction)), None)
    floats = [array.shape for array in operands if array.dtype in ("bf16", "f32", "f16")]
    if kind is None or len(floats) < 3:
        return None
    queries, keys = floats[:2]
    matmuls = _MATMULS[kind]
    gradients = [array for array in instruction.arrays if array.shape[-2:] == keys[-2:]]
    if kind == "dkv" and len(gradients) > 2:
        matmuls += 1  # also computes the queries' gradient
    is_causal = sum(array.dtype == "s32" for array in operands) % 2 == 1
    share = _causal_share(*operands[0].shape[-2:]) if is_causal else 1.0
    return 2.0 * matmuls * math.prod(queries) * keys[-2] * share


def elements_read(instruction: Instruction, operands: list[Array], number: int) -> int | None:
    """How many elements of operand `number` one run of a kernel reads; None without a formula.

    Of a cache, the ragged decode kernel reads one layer's slots that hold a token, in whole chunks:
    half a chunk more. What writes to it reads the columns around one slot.
    """
    name, operand = kernel_name(instruction), operands[number]
    if name == write_columns.NAME:
        is_written = any(operand.shape == array.shape for array in instruction.arrays)
        share = min(write_columns.LANES / operand.shape[-1], 1.0) if is_written else 1.0
        return round(share * operand.elements)
    if name != ragged_decode.NAME or not _is_cache(operand):
        return None
    num_slots = _num_slots(operands, instruction.arrays[0])
    held = min(FILL * num_slots + ragged_decode.CHUNK / 2, num_slots)
    return round(operand.elements / operand.shape[0] * held / num_slots)


def _is_cache(operand: Array) -> bool:
    """Whether it is a stacked cache, [layers, B, G, S, K] or [layers, B, G, K, S]."""
    return len(operand.shape) == 5


def _num_slots(operands: list[Array], queries: Array) -> int:
    """S, of the kernel's operands and queries [B, G, R, K]."""
    keys = next(operand for operand in operands if _is_cache(operand))
    B, G, _, K = queries.shape
    return keys.elements // (keys.shape[0] * B * G * K)


@cache
def _causal_share(rows: int, columns: int) -> float:
    """Fraction of a grid's blocks that touch the lower triangle."""
    touched = sum(
        column * rows < (row + 1) * columns for row in range(rows) for column in range(columns)
    )
    return touched / (rows * columns)


def _convolution(instruction: Instruction, left: Array, right: Array, result: Array) -> float:
    labels = instruction.attribute("dim_labels") or ""
    inputs, kernel, outputs = re.split(r"_|->", labels)
    window = _window(instruction.attributes)
    pairs = 1
    for axis in filter(str.isdigit, inputs):
        pairs *= _pairs(
            left.shape[inputs.index(axis)],
            right.shape[kernel.index(axis)],
            result.shape[outputs.index(axis)],
            *(window.get(name, {}).get(int(axis), default) for name, default in _WINDOW.items()),
        )
    batch, features = result.shape[outputs.index("b")], result.shape[outputs.index("f")]
    return 2.0 * pairs * batch * features * right.shape[kernel.index("i")]


# Fields of a window in HLO text, with their defaults.
_WINDOW = {"stride": 1, "pad": 0, "lhs_dilate": 1, "rhs_dilate": 1}


def _window(attributes: str) -> dict[str, dict[int, int]]:
    """{"stride": {axis: value}, ...} of window={size=1x32 pad=0_0x31_31 ...}; low padding only."""
    match = re.search(r"window=\{([^}]*)\}", attributes)
    fields = dict(part.split("=") for part in match[1].split()) if match else {}
    return {
        name: {axis: int(value.split("_")[0]) for axis, value in enumerate(text.split("x"))}
        for name, text in fields.items()
        if name in _WINDOW
    }


@cache
def _pairs(
    size: int, kernel: int, outputs: int, stride: int, pad: int, dilate: int, kernel_dilate: int
) -> int:
    """Counts pairs (output, kernel element) along an axis that read an input element."""
    pairs = 0
    for element in range(kernel):
        offset = element * kernel_dilate - pad
        for output in range(outputs):
            position = output * stride + offset
            pairs += position >= 0 and position % dilate == 0 and position // dilate < size
    return pairs


def _numbers(text: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", text)]
