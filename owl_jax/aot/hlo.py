"""Parses the text (HLO) of a compiled program.

The text comes from `jax.stages.Compiled.as_text()`: computations, each a list of instructions in
the order in which the device runs them,

    %name = type opcode(%operand, ...), attribute=..., backend_config={...}
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

# Bits of an element; other types (token, opaque) take no memory.
_BITS = {"pred": 8, "s4": 4, "u4": 4, "bf16": 16, "f16": 16, "f32": 32, "f64": 64} | {
    f"{sign}{bits}": bits for sign in "su" for bits in (8, 16, 32, 64)
}

_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\) -> .*\{$")
_INSTRUCTION = re.compile(r"^\s+(ROOT )?%?([\w.\-]+) = ")
_ARRAY = re.compile(r"([a-z]\w*)\[([\d,<=]*)\](?:\{([^}]*)\})?")
_SPACE = re.compile(r"S\((\d+)\)")
_NAME = re.compile(r"%([\w.\-]+)")


@dataclass(frozen=True)
class Array:
    """An array's type. space: 0 is HBM; others are on the chip."""

    dtype: str
    shape: tuple[int, ...]
    space: int = 0

    @property
    def elements(self) -> int:
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes without the padding of the layout."""
        bits = 8 if self.dtype.startswith("f8") else _BITS.get(self.dtype, 0)
        return self.elements * bits // 8

    def __str__(self) -> str:
        return f"{self.dtype}[{','.join(map(str, self.shape))}]"


@dataclass(frozen=True)
class Instruction:
    """One instruction.

    arrays: the result; a tuple's leaves in order.
    literal: text in the brackets of a constant or a parameter.
    attributes: the text after the operands.
    """

    name: str
    opcode: str
    arrays: tuple[Array, ...]
    operands: tuple[str, ...]
    literal: str
    attributes: str
    is_root: bool

    @property
    def nbytes(self) -> int:
        return sum(array.nbytes for array in self.arrays)

    def attribute(self, name: str) -> str | None:
        """The value of `name=value`: a word, "{...}", or a quoted text without its quotes."""
        pattern = rf'\b{name}=(?:"([^"]*)"|(\{{[^{{}}]*\}})|%?([^\s,{{}}]+))'
        match = re.search(pattern, self.attributes)
        if match is None:
            return None
        return next(group for group in match.groups() if group is not None)

    @property
    def called(self) -> tuple[str, ...]:
        """The computations that run as part of this instruction, except a loop's."""
        if self.opcode == "call":
            names = [self.attribute("to_apply")]
        elif self.opcode == "conditional":
            names = [self.attribute("true_computation"), self.attribute("false_computation")]
            names += _NAME.findall(self.attribute("branch_computations") or "")
        elif self.opcode in ("async-update", "async-done"):
            names = []  # repeats async-start's
        else:
            names = [self.attribute("calls")]
        return tuple(name for name in names if name is not None)

    @property
    def op_name(self) -> str:
        """JAX's name of its origin in the model; "" if the compiler made it."""
        return self.attribute("op_name") or ""


@dataclass(frozen=True)
class Computation:
    """One function of the program, with its instructions in textual order."""

    name: str
    instructions: tuple[Instruction, ...]

    @cached_property
    def by_name(self) -> Mapping[str, Instruction]:
        return {instruction.name: instruction for instruction in self.instructions}

    @property
    def root(self) -> Instruction:
        return next(instruction for instruction in self.instructions if instruction.is_root)

    def operands(self, instruction: Instruction) -> list[Instruction]:
        return [self.by_name[name] for name in instruction.operands]

    def parameter(self, number: int) -> Instruction:
        return next(
            instruction
            for instruction in self.instructions
            if instruction.opcode == "parameter" and instruction.literal == str(number)
        )


@dataclass(frozen=True)
class Module:
    """computations: by name, callees before callers."""

    computations: Mapping[str, Computation]
    entry: Computation

    def called(self, instruction: Instruction) -> list[Computation]:
        return [self.computations[name] for name in instruction.called]


def parse(text: str) -> Module:
    """Parses a module. Raises ValueError for text that is not HLO."""
    computations: dict[str, Computation] = {}
    entry = name = ""
    lines: list[str] = []
    for line in text.splitlines():
        if match := _COMPUTATION.match(line):
            name, lines = match[2], []
            entry = name if match[1] else entry
        elif line == "}" and name:
            computations[name] = Computation(name, tuple(map(_instruction, lines)))
            name = ""
        elif name and _INSTRUCTION.match(line):
            lines.append(line)
        elif name:
            lines[-1] += line  # an attribute that holds a line break
    if entry not in computations:
        raise ValueError("no HLO module: there is no ENTRY computation")
    return Module(computations, computations[entry])


def _instruction(line: str) -> Instruction:
    match = _INSTRUCTION.match(line)
    assert match is not None
    rest = line[match.end() :]
    # A tuple's type is in brackets and contains spaces; an array's has none.
    type_end = _closing(rest, 0) if rest.startswith("(") else rest.index(" ")
    opening = rest.index("(", type_end)
    close = _closing(rest, opening)
    opcode, inner = rest[type_end:opening].strip(), rest[opening + 1 : close - 1]
    is_leaf = opcode in ("constant", "parameter")
    return Instruction(
        name=match[2],
        opcode=opcode,
        arrays=tuple(_arrays(rest[:type_end])),
        operands=() if is_leaf else tuple(_NAME.findall(inner)),
        literal=inner if is_leaf else "",
        attributes=rest[close:],
        is_root=match[1] is not None,
    )


def _arrays(text: str) -> Iterator[Array]:
    for dtype, shape, layout in _ARRAY.findall(text):
        space = _SPACE.search(layout)
        sizes = tuple(int(size.lstrip("<=")) for size in shape.split(",") if size)
        yield Array(dtype, sizes, int(space[1]) if space else 0)


def _closing(text: str, start: int) -> int:
    """The position after the bracket that closes the one at `start`."""
    depth = 0
    for match in re.finditer(r"[()]", text[start:]):
        depth += 1 if match[0] == "(" else -1
        if depth == 0:
            return start + match.end()
    raise ValueError(f"no closing bracket: {text[:100]!r}")
