"""Programs of a small model, in every form, compiled for a TPU that is not there."""

import json
import runpy
from pathlib import Path

import pytest

from owl_jax.aot.analyse import analyse
from owl_jax.aot.build_program import build_program
from owl_jax.errors import UserError
from owl_jax.models.config import OwlConfig
from owl_jax.models.connectors.abstractor import AbstractorConfig
from owl_jax.models.language.llama import LlamaConfig
from owl_jax.models.lora import LoraConfig
from owl_jax.models.vision.clip import ClipConfig
from owl_jax.training.config import base_config

CONFIGS = Path(__file__).parents[2] / "configs"

# Widths that fill a TPU's tiles, so that sizes in memory are those of the shapes.
SMALL = OwlConfig(
    vision=ClipConfig(32, 16, 256, 512, num_layers=2, num_heads=2),
    connector=AbstractorConfig(15, 256, 512, num_layers=2, num_heads=2),
    llm=LlamaConfig(1024, 256, 512, num_layers=4, num_heads=2, num_kv_heads=2),
    lora=LoraConfig(rank=8),
)


def small_config(**mesh):
    """Stage 2 of the small model, eight rows of 256 positions and a picture."""
    config = base_config(SMALL)
    stage2 = runpy.run_path(str(CONFIGS / "stage2.py"))["get_config"]()
    config.rules, config.recipes = stage2.rules, stage2.recipes
    config.batch_size, config.steps = 8, 100
    config.data.sequence_length = 256
    config.compute.remat = "none"
    config.mesh.update(mesh)
    return config


@pytest.fixture(scope="module")
def trained(open_topology):
    topology = open_topology("v5e:2x2")
    return analyse(build_program(small_config(), topology), topology)


def test_the_json_has_the_contract_s_keys(trained):
    written = json.loads(json.dumps(trained.to_dict()))
    assert written["topology"] == "v5e:2x2" and written["devices"] == 4
    assert written["mesh"] == {"data": 1, "fsdp": 4, "tensor": 1}
    assert written["batch"] == {
        "rows": 8, "rows_per_device": 2.0, "length": 256, "image_slots": 1, "video_slots": 0
    }  # fmt: skip
    memory = written["hbm_bytes_per_device"]
    keys = {"arguments", "outputs", "temporaries", "aliased", "peak", "limit"}
    assert keys <= memory.keys()
    assert memory["limit"] == 15.75 * 2**30
    assert written["fits"] is True
    assert written["compile_seconds"] > 0 and written["trace_seconds"] > 0
    assert {"seconds", "mfu", "tokens_per_second_per_chip"} <= written["estimated"].keys()
    assert written["model_flops_per_step"] > 0 and written["hardware_flops_per_device"] > 0
    assert written["versions"].keys() == {"jax", "libtpu"}
    for kind, values in written["collectives"].items():
        assert kind.startswith(("all-", "reduce-", "collective-"))
        assert values["count"] > 0 and values["bytes"] > 0 and values["dcn_bytes"] == 0


def test_the_memory_adds_up(trained):
    """The state is given up for its successor; metrics are a few numbers more."""
    memory, groups = trained.memory, trained.program.argument_bytes
    assert memory.peak == (
        memory.arguments + memory.outputs - memory.aliased + memory.temporaries + memory.program
    )
    assert sum(groups.values()) == pytest.approx(memory.arguments, rel=0.1)
    assert groups["trainable"] + groups["optimizer"] == pytest.approx(memory.aliased, rel=0.1)
    assert 0 <= memory.outputs - memory.aliased < 100_000
    assert groups["optimizer"] == pytest.approx(2 * groups["trainable"], rel=0.01)


def test_work_counts_every_layer(trained):
    """Attention in one block is whole instead of half, and its backward pass scores anew."""
    assert trained.unknown_loops == []
    assert 1.0 <= trained.flops_ratio < 1.25
    assert {kernel.runs for kernel in trained.kernels} == {4}
    assert any("fwd" in kernel.name for kernel in trained.kernels)


def test_each_layer_s_weights_are_gathered_twice(trained):
    """Forward and backward; the head once each, and the abstractor's and vision tower's."""
    layer = 4 * 256 * 256 + 3 * 256 * 512
    gathered = trained.collectives["all-gather"]["ICI"].nbytes
    assert gathered >= 2 * 4 * layer * 2


def test_the_table_says_what_a_person_asks(trained):
    table = str(trained)
    for words in (
        "train on v5e:2x2: 4 devices, mesh data 1, fsdp 4, tensor 1",
        "8 sequences (2 per device) of 256 tokens",
        "frozen bfloat16, attention auto, remat none",
        "a v5e has 197 TFLOP/s in bfloat16, 16.91 GB at 819 GB/s",
        "FITS: ",
        "frozen 0.00, trainable 0.00, optimizer 0.00, batch 0.00",
        "x the model's",
        "largest intermediate arrays: count, GB each, type, origins",
        "kernel splash_mha_fwd",
        "all-gather           ICI",
        "estimate, comparable with other estimates only",
    ):
        assert words in table, table


def test_quick_has_the_same_work_and_no_time(open_topology, trained):
    topology = open_topology("v5e:2x2")
    quick = analyse(build_program(small_config(), topology), topology, quick=True)
    assert quick.hardware_flops == pytest.approx(trained.hardware_flops, rel=0.01)
    assert quick.memory.arguments == trained.memory.arguments
    assert quick.estimated is None and "optimisation level O0" in str(quick)


def test_accumulation_doubles_what_is_gathered(open_topology, trained):
    topology = open_topology("v5e:2x2")
    config = small_config()
    config.gradient_accumulation_steps = 2
    twice = analyse(build_program(config, topology), topology, quick=True)
    once = trained.collectives["all-gather"]["ICI"].nbytes
    assert twice.collectives["all-gather"]["ICI"].nbytes == pytest.approx(2 * once, rel=0.2)
    assert twice.hardware_flops == pytest.approx(trained.hardware_flops, rel=0.05)


@pytest.mark.parametrize("name", ["prefill", "decode"])
def test_answering(open_topology, name):
    """The batch is whole on every chip, heads and widths are spread."""
    topology = open_topology("v5e:2x2")
    config = small_config(fsdp=2, tensor=2)
    report = analyse(build_program(config, topology, name, new_tokens=64), topology)
    assert report.fits
    assert "\n8 sequences (4 per device, the same on 2 of them) of " in str(report)
    written = report.to_dict()
    if name == "prefill":
        assert report.program.tokens == 8 * (256 - 64)
        assert 0.9 < report.flops_ratio < 1.5
        assert report.unknown_loops == []
    else:
        assert report.program.tokens == 8
        cache = 2 * 4 * 8 * 256 * 256 * 2 // 4  # keys and values, layers, rows, slots, width
        assert report.program.argument_bytes["cache"] == cache
        assert cache < written["weight_and_cache_bytes_per_device"]
        assert written["hbm_bytes_read_per_device"] > 0


def test_weights_in_8_bits_take_half_the_room(open_topology):
    """A byte for each element of the layers' kernels; their scales are on every chip."""
    topology = open_topology("v5e:2x2")
    wide, narrow = (
        build_program(small_config(), topology, "decode", dtype=dtype, new_tokens=64)
        for dtype in ("bfloat16", "int8")
    )
    kernels = 4 * (4 * 256 * 256 + 3 * 256 * 512)
    scales = 4 * (5 * 256 + 2 * 512) * 4
    saved = wide.argument_bytes["weights"] - narrow.argument_bytes["weights"]
    assert saved == kernels // 4 - scales
    assert narrow.argument_bytes["cache"] == wide.argument_bytes["cache"]


def test_batch_per_device_is_rows_at_a_time(open_topology):
    topology = open_topology("v5e:2x2")
    config = small_config(fsdp=2, tensor=2)
    assert build_program(config, topology, batch_per_device=3).batch_size == 12
    config.gradient_accumulation_steps = 2
    assert build_program(config, topology, batch_per_device=3).batch_size == 24


def test_what_does_not_fit_is_told(open_topology):
    topology = open_topology("v5e:2x2")
    config = small_config()
    config.batch_size, config.compute.remat = 4 * 4096, "none"
    report = analyse(build_program(config, topology), topology, quick=True)
    assert not report.fits
    assert report.memory.peak > topology.chip.hbm_bytes
    assert report.to_dict()["fits"] is False
    assert "DOES NOT FIT: " in str(report) and "the compiler refused it" in str(report)


def test_a_mesh_that_the_topology_cannot_make_is_refused(open_topology):
    topology = open_topology("v5e:2x2")
    with pytest.raises(UserError, match=r"takes 3 devices, but there are 4"):
        build_program(small_config(fsdp=3), topology)
    config = small_config()
    config.batch_size = 6
    with pytest.raises(UserError, match="batch_size=6 cannot be divided among 4 devices"):
        build_program(config, topology)
