"""Which devices a collective joins: HLO's ways to write groups of device ids."""

from __future__ import annotations

import math
import re

import numpy as np

from owl_jax.aot.hlo import Instruction

Group = tuple[int, ...]


def first_group(instruction: Instruction, devices: int) -> Group:
    """The first group of devices that exchange with each other; all of them by default.

    Of a permutation, the two whose ids lie furthest apart.
    """
    pairs = re.search(r"source_target_pairs=\{(\{[\d,{}]*\})\}", instruction.attributes)
    if pairs:
        ends = [(int(a), int(b)) for a, b in re.findall(r"\{(\d+),(\d+)\}", pairs[1])]
        return max(ends, key=lambda pair: abs(pair[0] - pair[1]))
    written = re.search(r"replica_groups=(mesh\[.*?\{.*?\}|\S+)", instruction.attributes)
    groups = [] if written is None else read_groups(written[1])
    return groups[0] if groups else tuple(range(devices))


def read_groups(text: str) -> list[Group]:
    """The groups, in any of three ways to write them.

    {{0,1},{2,3}}: each by itself.
    [2,4]<=[8]T(0): as many groups, of so many, of consecutive ids in an array of that shape,
      transposed.
    mesh['a'=2,'b'=4], device_ids=([8]) {'b'}: of the ids in an array of that shape, those that
      differ in no other axis than the ones in brackets. device_ids: in another order, as above.
    """
    if text.startswith("mesh["):
        return _of_mesh(text)
    consecutive = re.match(r"\[([\d,]+)\]<=(\[.*)", text)
    if consecutive:
        return _tuples(_array(consecutive[2]).reshape(_numbers(consecutive[1])))
    return [tuple(_numbers(group)) for group in re.findall(r"\{([\d,]+)\}", text)]


def _of_mesh(text: str) -> list[Group]:
    mesh, _, brackets = text.partition("]")
    axes = re.findall(r"'([^']+)'=(\d+)", mesh)
    names, sizes = [name for name, _ in axes], [int(size) for _, size in axes]
    order = re.search(r"device_ids=\(?(\[[^)]*\](?:T\([\d,]+\))?)", text)
    ids = np.arange(math.prod(sizes)) if order is None else _array(order[1]).reshape(-1)
    ids = ids.reshape(sizes)
    joined = re.findall(r"'([^']+)'", brackets[brackets.rindex("{") :])
    apart = [number for number, name in enumerate(names) if name not in joined]
    together = [names.index(name) for name in joined]
    size = math.prod(sizes[number] for number in together)
    return _tuples(ids.transpose(apart + together).reshape(-1, size))


def _array(text: str) -> np.ndarray:
    """[2,4] or [2,4]T(1,0): consecutive ids in an array of that shape, transposed."""
    match = re.match(r"\[([\d,]+)\](?:T\(([\d,]+)\))?", text)
    assert match is not None
    shape = _numbers(match[1])
    ids = np.arange(math.prod(shape)).reshape(shape)
    return ids.transpose(_numbers(match[2])) if match[2] else ids


def _numbers(text: str) -> list[int]:
    return [int(number) for number in text.split(",")]


def _tuples(groups: np.ndarray) -> list[Group]:
    return [tuple(group) for group in groups.tolist()]
