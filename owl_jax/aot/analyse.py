"""From a program to what is known of it: trace, lower, compile, read what the compiler made."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Mapping

from owl_jax.aot import collectives, hlo, traffic, work
from owl_jax.aot.compiler import Memory, compile_program
from owl_jax.aot.estimate import estimate, expected_cycles
from owl_jax.aot.open_program import Program
from owl_jax.aot.runs import Runs, count_runs, endless_loop
from owl_jax.aot.summary import Estimated, LargeArrays, Report, Traffic
from owl_jax.aot.topology import Topology
from owl_jax.parallel.chips import Chip

_LARGEST = 6  # types of arrays that the table names
_ORIGINS = 2  # places that make one
_COMPILER = "made by the compiler"
_EVERYWHERE = ("while", "body", "closed_call", "layers.body", "jit(step)")
_SLOWEST = 12  # operations that it names


def analyse(
    program: Program,
    topology: Topology,
    quick: bool = False,
    options: Mapping[str, str] | None = None,
) -> Report:
    """Compiles a program and reports on it; see aot/compiler.py for the arguments."""
    start = time.perf_counter()
    traced = program.trace()
    seconds = {"trace": time.perf_counter() - start}
    start = time.perf_counter()
    lowered = traced.lower()
    seconds["lower"] = time.perf_counter() - start
    compiled = compile_program(lowered, quick, options)
    seconds["compile"] = compiled.seconds
    if compiled.memory is None:
        arguments = sum(program.arguments.values())
        memory = Memory(arguments, 0, compiled.refused, 0, 0)
        return Report(topology, program, quick, dict(options or {}), memory, seconds, refused=True)

    module = hlo.parse(compiled.text)
    # Decoding is a loop that ends when every row has ended: what counts is one turn of it.
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
        hardware_flops=work.product_flops(runs) + sum(k.flops or 0.0 for k in kernels),
        bytes_read=bytes_read,
        unknown_loops=runs.unknown,
        text=compiled.text,
    )
    if not quick:
        guess = estimate(runs, exchanged, program.devices, topology)
        chips = program.mesh.size
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

    As many of a type as one loop hands from turn to turn are there at once.
    """
    handed_on = ("parameter", "tuple", "get-tuple-element", "bitcast", "while")
    together: Counter[str] = Counter()
    sizes: dict[str, int] = {}
    origins: dict[str, Counter[str]] = defaultdict(Counter)
    for _, instruction, count in runs.steps():
        arrays = [array for array in instruction.arrays if array.space == 0]
        if instruction.opcode == "while":
            together |= Counter(map(str, arrays))
        for array in arrays if instruction.opcode not in handed_on else ():
            sizes[str(array)] = array.nbytes
            origins[str(array)][_place(instruction.op_name)] += count
    largest = sorted(sizes.items(), key=lambda item: item[1], reverse=True)[:_LARGEST]
    return [
        LargeArrays(
            max(together[name], 1),
            nbytes,
            name,
            _first(origins[name]),
        )
        for name, nbytes in largest
    ]


def slowest_operations(runs: Runs, chip: Chip) -> list[tuple[float, str]]:
    """(seconds, where in the model) of what the compiler expects to take longest."""
    taken: Counter[str] = Counter()
    for _, step, count in runs.steps():
        if not collectives.is_part(step):
            taken[_place(step.op_name)] += count * expected_cycles(step)
    return [(cycles / chip.clock, place) for place, cycles in taken.most_common(_SLOWEST)]


def _first(places: Counter[str]) -> tuple[str, ...]:
    """The most frequent places; the compiler only if there is no other."""
    known = [place for place, _ in places.most_common() if place != _COMPILER]
    return tuple(known[:_ORIGINS]) or (_COMPILER,)


def _place(op_name: str) -> str:
    """JAX's path without what every path has; backward and recomputed are told."""
    parts = [part for part in op_name.split("/") if part not in _EVERYWHERE]
    is_jax_s = "/" in op_name  # the compiler calls its own "broadcast.22"
    return "/".join(parts[-5:]) if is_jax_s and parts else _COMPILER
