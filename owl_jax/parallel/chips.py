"""Peak FLOPs, memory and links of chips, for MFU and for programs compiled without a chip.

TPU numbers are from Google Cloud's pages on each version (cloud.google.com/tpu/docs/v4, v5e,
v5p-training, v6e). The pages give the ICI bandwidth of all ports in both directions; here it is per
port and direction. GPU peaks are from NVIDIA's data sheets, bfloat16 without sparsity.
"""

from __future__ import annotations

from dataclasses import dataclass

_GIB = 2**30


@dataclass(frozen=True)
class Chip:
    """One TPU chip; JAX shows each as one device.

    name: as in a topology's name, "v5e:8x8".
    kinds: JAX's names of the device.
    dimensions: of the grid of chips in a slice.
    peak_flops: bfloat16 FLOPs per second.
    hbm_bytes: the limit for a program, from the error of the compiler (libtpu 0.0.42).
    hbm_bandwidth: bytes per second.
    link_bandwidth: bytes per second over one ICI port in one direction.
    ring_size: a grid dimension closes to a ring if it is a multiple of this.
    dcn_bandwidth: bytes per second to other slices: a chip's share of its host's network.
    clock: cycles per second, computed as peak_flops over the maximum operations per cycle in the
      compiler's cost model.
    """

    name: str
    kinds: tuple[str, ...]
    dimensions: int
    peak_flops: float
    hbm_bytes: int
    hbm_bandwidth: float
    link_bandwidth: float
    ring_size: int
    dcn_bandwidth: float
    clock: float


# dcn_bandwidth: v5e 6.4 Tbit/s for a pod of 256; v5p 50 Gbit/s a chip; v4 and v6e as the JAX
# team's book gives them (jax-ml.github.io/scaling-book/tpus).
CHIPS = {
    chip.name: chip
    for chip in (
        Chip(
            name="v4",
            kinds=("TPU v4",),
            dimensions=3,
            peak_flops=275e12,
            hbm_bytes=int(30.75 * _GIB),
            hbm_bandwidth=1200e9,
            link_bandwidth=50e9,
            ring_size=4,
            dcn_bandwidth=6.25e9,
            clock=275e12 / (2 * 4 * 2 * 128 * 128),
        ),
        Chip(
            name="v5e",
            kinds=("TPU v5 lite", "TPU v5e"),
            dimensions=2,
            peak_flops=197e12,
            hbm_bytes=int(15.75 * _GIB),
            hbm_bandwidth=819e9,
            link_bandwidth=50e9,
            ring_size=16,
            dcn_bandwidth=3.125e9,
            clock=197e12 / (4 * 2 * 128 * 128),
        ),
        Chip(
            name="v5p",
            kinds=("TPU v5", "TPU v5p"),
            dimensions=3,
            peak_flops=459e12,
            hbm_bytes=int(95.74 * _GIB),
            hbm_bandwidth=2765e9,
            link_bandwidth=100e9,
            ring_size=4,
            dcn_bandwidth=6.25e9,
            clock=459e12 / (2 * 4 * 2 * 128 * 128),
        ),
        Chip(
            name="v6e",
            kinds=("TPU v6 lite", "TPU v6e"),
            dimensions=2,
            peak_flops=918e12,
            hbm_bytes=int(31.25 * _GIB),
            hbm_bandwidth=1638e9,
            link_bandwidth=100e9,
            ring_size=16,
            dcn_bandwidth=12.5e9,
            clock=918e12 / (4 * 2 * 256 * 256),
        ),
    )
}

# By prefix of the kind, longer ones first: variants of a card differ in clock and power.
_GPU_PEAKS = {
    "NVIDIA H100 PCIe": 756e12,
    "NVIDIA H100 NVL": 835e12,
    "NVIDIA H200 NVL": 835e12,
    "NVIDIA A100": 312e12,
    "NVIDIA H100": 989e12,
    "NVIDIA H200": 989e12,
}


def name_of(device_kind: str) -> str:
    """Maps a `jax.Device.device_kind` to a name in `CHIPS`, "gpu" or "cpu"."""
    names = [chip.name for chip in CHIPS.values() if device_kind in chip.kinds]
    return names[0] if names else "gpu" if device_kind.startswith(("NVIDIA", "Tesla")) else "cpu"


def peak_flops(device_kind: str) -> float | None:
    """bfloat16 FLOPs per second of a `jax.Device.device_kind`; None if unknown."""
    for chip in CHIPS.values():
        if device_kind in chip.kinds:
            return chip.peak_flops
    return next(
        (peak for name, peak in _GPU_PEAKS.items() if device_kind.startswith(name)),
        None,
    )
