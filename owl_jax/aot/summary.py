"""The report on a compiled program: a table for people and JSON for scripts."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from owl_jax.aot.build_program import Program
from owl_jax.aot.compiler import Memory, versions
from owl_jax.aot.topology import Topology
from owl_jax.aot.work import FILL, Kernel

_GB, _T = 1e9, 1e12


@dataclass
class Traffic:
    """Collectives of one kind on one network, per run and device."""

    count: int = 0
    nbytes: int = 0


@dataclass(frozen=True)
class LargeArrays:
    """Arrays of one type. count: how many are alive at once. nbytes: size of one. origins:
    JAX's names of the operations that write them."""

    count: int
    nbytes: int
    type: str
    origins: tuple[str, ...]


@dataclass(frozen=True)
class Estimated:
    """Estimates for one run (aot/estimate.py). seconds: in total; operation, kernel and exposed
    collective seconds add up to it. memory_seconds: time to read all bytes at full
    memory bandwidth."""

    seconds: float
    mfu: float
    tokens_per_second_per_chip: float
    operation_seconds: float
    kernel_seconds: float
    exposed_collective_seconds: float
    collective_seconds: float
    memory_seconds: float


@dataclass
class Report:
    """What is known of a compiled program.

    refused: the program needs more HBM than the chip has.
    largest: the largest intermediate arrays.
    collectives: {kind: {"ICI" or "DCN": ...}}.
    hardware_flops: per device.
    bytes_read: from HBM, per device.
    unknown_loops: loops whose trip count is unknown; they count once.
    estimated: None with --quick, or if the program does not fit.
    slowest: (estimated seconds, origin) of operations.
    text: the compiled program's HLO.
    """

    topology: Topology
    program: Program
    quick: bool
    options: dict[str, str]
    memory: Memory
    seconds: dict[str, float]
    refused: bool = False
    largest: list[LargeArrays] = field(default_factory=list)
    collectives: dict[str, dict[str, Traffic]] = field(default_factory=dict)
    kernels: list[Kernel] = field(default_factory=list)
    hardware_flops: float | None = None
    bytes_read: int | None = None
    unknown_loops: list[str] = field(default_factory=list)
    estimated: Estimated | None = None
    slowest: list[tuple[float, str]] = field(default_factory=list)
    text: str = field(default="", repr=False)

    @property
    def fits(self) -> bool:
        return not self.refused and self.memory.peak <= self.topology.chip.hbm_bytes

    @property
    def flops_ratio(self) -> float | None:
        """FLOPs of the program over FLOPs of the model; None for a program without matmuls."""
        if self.hardware_flops is None or not self.program.model_flops:
            return None
        return self.hardware_flops * self.program.mesh.size / self.program.model_flops

    def to_dict(self) -> dict[str, Any]:
        """The JSON of the contract (ARCHITECTURE.md)."""
        program, memory = self.program, self.memory
        return {
            "program": program.name,
            "topology": self.topology.name,
            "slices": self.topology.slices,
            "devices": program.mesh.size,
            "mesh": dict(program.mesh.shape),
            "batch": {
                "rows": program.batch_size,
                "rows_per_device": program.batch_per_device,
                "length": program.sequence.length,
                "image_slots": program.sequence.image_slots,
                "video_slots": program.sequence.video_slots,
            },
            "compute": program.compute,
            "quick": self.quick,
            "compiler_options": self.options,
            "hbm_bytes_per_device": {
                "arguments": memory.arguments,
                "argument_groups": program.argument_bytes,
                "outputs": memory.outputs,
                "temporaries": memory.temporaries,
                "aliased": memory.aliased,
                "program": memory.program,
                "peak": memory.peak,
                "limit": self.topology.chip.hbm_bytes,
            },
            "fits": self.fits,
            "model_flops_per_step": program.model_flops,
            "hardware_flops_per_device": self.hardware_flops,
            "hardware_over_model_flops": self.flops_ratio,
            "hbm_bytes_read_per_device": self.bytes_read,
            "weight_and_cache_bytes_per_device": program.read_once,
            "weight_and_held_bytes_per_device": program.needed,
            "collectives": {
                kind: {
                    "count": sum(traffic.count for traffic in networks.values()),
                    "bytes": sum(traffic.nbytes for traffic in networks.values()),
                    "dcn_bytes": networks["DCN"].nbytes if "DCN" in networks else 0,
                }
                for kind, networks in self.collectives.items()
            },
            "kernels": {
                kernel.name: {"runs": kernel.runs, "flops": kernel.flops} for kernel in self.kernels
            },
            "unknown_loops": self.unknown_loops,
            "trace_seconds": self.seconds["trace"],
            "lower_seconds": self.seconds["lower"],
            "compile_seconds": self.seconds["compile"],
            "estimated": None if self.estimated is None else vars(self.estimated),
            "versions": versions(),
        }

    def __str__(self) -> str:
        parts = [self._head(), self._memory()]
        if not self.refused:
            parts += [self._work(), self._collectives()]
        return "\n\n".join([*parts, self._time()])

    def _head(self) -> str:
        program, topology = self.program, self.topology
        mesh = ", ".join(f"{axis} {size}" for axis, size in program.mesh.shape.items())
        slices = f"{topology.slices} slices of " if topology.slices > 1 else ""
        own, sequence = program.batch_per_device, program.sequence
        share = f"{own:,} per device"
        if (copies := program.mesh.size * own // program.batch_size) > 1:
            share += f", the same on {copies} of them"
        media = f"{sequence.image_slots} image slots"
        if sequence.video_slots:
            media += f", {sequence.video_slots} video slots of {sequence.frames} frames"
        return (
            f"{program.name} on {slices}{topology.name}: {program.mesh.size} devices, mesh {mesh}\n"
            f"{program.batch_size:,} sequences ({share}) of "
            f"{sequence.length:,} tokens, {media}; {program.compute}\n"
            f"{self._chip()}{self._crossing()}"
        )

    def _chip(self) -> str:
        chip = self.topology.chip
        between = f", {chip.dcn_bandwidth / _GB:.1f} GB/s between slices"
        return (
            f"a {chip.name} has {chip.peak_flops / _T:.0f} TFLOP/s in bfloat16, "
            f"{chip.hbm_bytes / _GB:.2f} GB at {chip.hbm_bandwidth / _GB:,.0f} GB/s, links of "
            f"{chip.link_bandwidth / _GB:.0f} GB/s each way"
            f"{between if self.topology.slices > 1 else ''} (sources: owl_jax/parallel/chips.py)"
        )

    def _crossing(self) -> str:
        slices = self.topology.slices
        if self.program.mesh.shape["data"] % slices == 0:
            return ""
        return (
            f"\nfsdp spans the slices, so weights go over DCN; config.mesh.data={slices} keeps "
            "them inside a slice"
        )

    def _memory(self) -> str:
        memory, limit = self.memory, self.topology.chip.hbm_bytes
        groups = ", ".join(
            f"{name} {nbytes / _GB:.2f}" for name, nbytes in self.program.argument_bytes.items()
        )
        verdict = "FITS" if self.fits else "DOES NOT FIT"
        lines = [
            f"{verdict}: {memory.peak / _GB:.2f} of {limit / _GB:.2f} GB per device "
            f"({memory.peak / limit:.1%})",
            f"  arguments    {memory.arguments / _GB:8.2f}  {groups}",
            f"  outputs      {memory.outputs / _GB:8.2f}  {memory.aliased / _GB:.2f} of them "
            "aliased to arguments",
            f"  temporaries  {memory.temporaries / _GB:8.2f}",
            f"  program      {memory.program / _GB:8.2f}",
        ]
        if self.refused:
            lines[0] += ": the compiler refused it"
        if self.largest:
            lines.append("largest intermediate arrays: count, GB each, type, origins")
        lines += [
            f"  {large.count:>2} x {large.nbytes / _GB:5.2f}  {large.type:<28} "
            f"{'; '.join(large.origins)}"
            for large in self.largest
        ]
        return "\n".join(lines)

    def _work(self) -> str:
        assert self.hardware_flops is not None and self.bytes_read is not None
        per_device = self.program.model_flops / self.program.mesh.size
        work = f"work: {self.hardware_flops / _T:.2f} TFLOP per device"
        if self.flops_ratio is not None:
            work += f", {self.flops_ratio:.2f} x the model's {per_device / _T:.2f}"
        lines = [work]
        if self.program.needed is not None:
            seconds = self.bytes_read / self.topology.chip.hbm_bandwidth
            lines.append(
                f"reading: {self.bytes_read / _GB:.2f} GB per token, "
                f"{self.bytes_read / self.program.needed:.2f} x weights and a cache filled to "
                f"{FILL:.0%}; {1000 * seconds:.1f} ms at full memory bandwidth"
            )
        for kernel in self.kernels:
            work = "unknown FLOPs" if kernel.flops is None else f"{kernel.flops / _T:.2f} TFLOP"
            lines.append(f"  kernel {kernel.name}: {kernel.runs} runs, {work}")
        if not self.kernels:
            lines.append("  no Pallas kernels")
        if self.unknown_loops:
            lines.append(
                f"  loops of unknown length, counted once: {', '.join(self.unknown_loops)}"
            )
        return "\n".join(lines)

    def _collectives(self) -> str:
        unit = "token" if self.program.name == "decode" else "run"
        lines = [f"collectives per {unit} and device"]
        for kind, networks in sorted(self.collectives.items()):
            for network, traffic in networks.items():
                lines.append(
                    f"  {kind:<20} {network}  {traffic.count:>6} x  {traffic.nbytes / _GB:8.3f} GB"
                )
        return "\n".join(lines if self.collectives else ["no collectives"])

    def _time(self) -> str:
        spent = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in self.seconds.items())
        lines = [spent + (" (quick: optimisation level O0)" if self.quick else "")]
        lines.append(", ".join(f"{name} {version}" for name, version in versions().items()))
        if self.options:
            lines[-1] += "; " + " ".join(f"{name}={value}" for name, value in self.options.items())
        if (estimated := self.estimated) is not None:
            lines.append(
                f"estimate, comparable with other estimates only: "
                f"{estimated.seconds:.3f} s (operations {estimated.operation_seconds:.3f}, kernels "
                f"{estimated.kernel_seconds:.3f}, exposed collectives "
                f"{estimated.exposed_collective_seconds:.3f} of "
                f"{estimated.collective_seconds:.3f}); MFU {estimated.mfu:.3f}, "
                f"{estimated.tokens_per_second_per_chip:,.0f} tokens/s/chip. Slowest:"
            )
            lines += [f"  {seconds:6.3f}  {origin}" for seconds, origin in self.slowest]
        return "\n".join(lines)
