"""Parses the device groups of a collective from HLO."""

from __future__ import annotations

import math
import re

import numpy as np

from owl_jax.aot.hlo import Instruction

Group = tuple[int, ...]


def first_group(instruction: Instruction, devices: int) -> Group:
    """The first group of a collective; all devices if it names none.

    For a permutation: the pair whose ids are furthest apart.
    """
    pairs = re.search(r"source_target_pairs=\{(\{[\d,{}]*\})\}", instruction.attributes)
    if pairs:
        ends = [(int(a), int(b)) for a, b in re.findall(r"\{(\d+),(\d+)\}", pairs[1])]
        return max(ends, key=lambda pair: abs(pair[0] - pair[1]))
    written = re.search(r"replica_groups=(mesh\[.*?\{.*?\}|\S+)", instruction.attributes)
    groups = [] if written is None else read_groups(written[1])
    return groups[0] if groups else tuple(range(devices))


def read_groups(text: str) -> list[Group]:
    """Parses groups in any of HLO's three notations.

    {{0,1},{2,3}}: explicit.
    [2,4]<=[8]T(0): two groups of four: consecutive ids in an array of shape [8], transposed by
      T(0), reshaped to [2,4].
    mesh['a'=2,'b'=4], device_ids=([8]) {'b'}: ids in an array of the mesh's shape; within a
      group only the axes in braces vary. device_ids: an optional order of the ids, as above.
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
