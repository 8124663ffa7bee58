import pytest

from owl_jax.parallel.chips import CHIPS, peak_flops


@pytest.mark.parametrize(
    ("kind", "peak"),
    [
        ("TPU v4", 275e12),
        ("TPU v5 lite", 197e12),
        ("TPU v5p", 459e12),
        ("TPU v6 lite", 918e12),
        ("NVIDIA H200", 989e12),
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA H200 NVL", 835e12),
        ("NVIDIA A100-SXM4-40GB", 312e12),
        ("cpu", None),
        ("NVIDIA GeForce RTX 4090", None),
    ],
)
def test_the_peak_of_a_device(kind, peak):
    assert peak_flops(kind) == peak


def test_clocks_are_plausible():
    assert {chip.name: round(chip.clock / 1e9, 2) for chip in CHIPS.values()} == {
        "v4": 1.05,
        "v5e": 1.5,
        "v5p": 1.75,
        "v6e": 1.75,
    }
