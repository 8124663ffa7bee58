"""Traces, lowers and compiles a program, and reports on the compiled HLO."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Mapping

from owl_jax.aot import collectives, hlo, traffic, work
from owl_jax.aot.build_program import Program
from owl_jax.aot.compiler import Memory, compile_program
from owl_jax.aot.estimate import estimate, expected_cycles
from owl_jax.aot.runs import Runs, count_runs, endless_loop
from owl_jax.aot.summary import Estimated, LargeArrays, Report, Traffic
from owl_jax.aot.topology import Topology
from owl_jax.parallel.chips import Chip

_LARGEST = 6  # array types in the table
_ORIGINS = 2  # origins of each
_COMPILER = "made by the compiler"
_COMMON_PARTS = ("while", "body", "closed_call", "layers.body", "jit(step)")
_SLOWEST = 12  # operations in the table


def analyse(
    program: Program,
    topology: Topology,
    quick: bool = False,
    options: Mapping[str, str] | None = None,
) -> Report:
    """Compiles a program and reports on it; aot/compiler.py documents `quick` and `options`."""
    start = time.perf_counter()
    traced = program.trace()
    seconds = {"trace": time.perf_counter() - start}
    start = time.perf_counter()
    lowered = traced.lower()
    seconds["lower"] = time.perf_counter() - start
    compiled = compile_program(lowered, quick, options)
    seconds["compile"] = compiled.seconds
    if compiled.memory is None:
        arguments = sum(program.argument_bytes.values())
        memory = Memory(arguments, 0, compiled.refused, 0, 0)
        return Report(topology, program, quick, dict(options or {}), memory, seconds, refused=True)

    module = hlo.parse(compiled.text)
    # The decode loop has no fixed length, so count one iteration.
    runs = count_runs(module, endless_loop(module) if program.name == "decode" else None)
    exchanged = collectives.find(runs, program.mesh.size)
    kinds: dict[str, dict[str, Traffic]] = defaultdict(lambda: defaultdict(Traffic))
    for item in exchanged:
        route = collectives.route(item, program.devices, topology)
        total = kinds[item.kind][route.network]
        total.count += item.runs
        total.nbytes += item.runs * item.nbytes
    kernels = work.kernels(runs)
    bytes_read = traffic.bytes_read(runs)
    report = Report(
        topology,
        program,
        quick,
        dict(options or {}),
        compiled.memory,
        seconds,
        largest=largest_arrays(runs),
        collectives={kind: dict(networks) for kind, networks in kinds.items()},
        kernels=kernels,
        hardware_flops=work.matmul_flops(runs) + sum(k.flops or 0.0 for k in kernels),
        bytes_read=bytes_read,
        unknown_loops=runs.unknown,
        text=compiled.text,
    )
    if quick:
        return report
    guess = estimate(runs, exchanged, program.devices, topology)
    chips = program.mesh.size
    if guess.total:  # the compiler estimates nothing for some programs that only write
        report.estimated = Estimated(
            seconds=guess.total,
            mfu=program.model_flops / (guess.total * chips * topology.chip.peak_flops),
            tokens_per_second_per_chip=program.tokens / (guess.total * chips),
            operation_seconds=guess.operations,
            kernel_seconds=guess.kernels,
            exposed_collective_seconds=guess.exposed,
            collective_seconds=guess.wire,
            memory_seconds=bytes_read / topology.chip.hbm_bandwidth,
        )
        report.slowest = slowest_operations(runs, topology.chip)
    return report


def largest_arrays(runs: Runs) -> list[LargeArrays]:
    """The largest arrays that steps write to memory, by type.

    All arrays of one type that a loop carries are alive at the same time.
    """
    not_written = ("parameter", "tuple", "get-tuple-element", "bitcast", "while")
    alive: Counter[str] = Counter()
    sizes: dict[str, int] = {}
    origins: dict[str, Counter[str]] = defaultdict(Counter)
    for _, instruction, count in runs.steps():
        arrays = [array for array in instruction.arrays if array.space == 0]
        if instruction.opcode == "while":
            alive |= Counter(map(str, arrays))
        for array in arrays if instruction.opcode not in not_written else ():
            sizes[str(array)] = array.nbytes
            origins[str(array)][_origin(instruction.op_name)] += count
    largest = sorted(sizes.items(), key=lambda item: item[1], reverse=True)[:_LARGEST]
    return [
        LargeArrays(
            max(alive[name], 1),
            nbytes,
            name,
            _most_common(origins[name]),
        )
        for name, nbytes in largest
    ]


def slowest_operations(runs: Runs, chip: Chip) -> list[tuple[float, str]]:
    """(seconds, origin in the model) of the operations with the most expected cycles."""
    taken: Counter[str] = Counter()
    for _, step, count in runs.steps():
        if not collectives.is_part(step):
            taken[_origin(step.op_name)] += count * expected_cycles(step)
    return [(cycles / chip.clock, origin) for origin, cycles in taken.most_common(_SLOWEST)]


def _most_common(origins: Counter[str]) -> tuple[str, ...]:
    """The most frequent origins; the compiler only if there is no other."""
    known = [origin for origin, _ in origins.most_common() if origin != _COMPILER]
    return tuple(known[:_ORIGINS]) or (_COMPILER,)


def _origin(op_name: str) -> str:
    """JAX's name path without common parts; shows the backward pass and recomputation."""
    parts = [part for part in op_name.split("/") if part not in _COMMON_PARTS]
    is_from_jax = "/" in op_name  # the compiler's own are named like "broadcast.22"
    return "/".join(parts[-5:]) if is_from_jax and parts else _COMPILER
