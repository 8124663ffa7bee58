"""The command with the TPU's compiler: what it prints, writes and refuses."""

import json
import os
import subprocess
import sys

import pytest
from notebook_cells import EXAMPLES, python_calls, read

CONFIG = """
from owl_jax.models.config import OwlConfig
from owl_jax.models.connectors.abstractor import AbstractorConfig
from owl_jax.models.language.llama import LlamaConfig
from owl_jax.models.lora import LoraConfig
from owl_jax.models.vision.clip import ClipConfig
from owl_jax.training.config import base_config

def get_config():
    config = base_config(OwlConfig(
        vision=ClipConfig(32, 16, 128, 256, num_layers=1, num_heads=2),
        connector=AbstractorConfig(15, 128, 256, num_layers=1, num_heads=2),
        llm=LlamaConfig(512, 128, 256, num_layers=2, num_heads=2, num_kv_heads=2),
        lora=LoraConfig(rank=8),
    ))
    config.rules = (("lora/.*", "lora"), (".*", "frozen"))
    config.recipes.lora = {"learning_rate": 1e-4}
    config.batch_size = 8
    config.data.sequence_length = 256
    config.data.mixture = (("no/such/data.jsonl", 1.0),)
    config.init.llm = config.tokenizer = "no/such/directory"
    return config
"""


@pytest.fixture
def compile_it(tmp_path):
    """Runs the command in an environment that would break it, were it read."""
    (tmp_path / "config.py").write_text(CONFIG)

    def run(*flags):
        return subprocess.run(
            [sys.executable, "-m", "owl_jax.compile", f"--config={tmp_path}/config.py", *flags],
            env=os.environ
            | {
                "JAX_PLATFORMS": "tpu",
                "LIBTPU_INIT_ARGS": "--xla_no_such_flag=1",
                "XLA_FLAGS": "--xla_no_such_flag=1",
                "TPU_LIBRARY_PATH": "/no/such/library",
            },
            capture_output=True,
            text=True,
            timeout=300,
        )

    return run


def test_a_table_and_json_without_weights_or_data(compile_it, tmp_path):
    result = compile_it(
        "--topology=v5e:2x2",
        "--batch_per_device=3",
        "--config.compute.remat=none",
        f"--json={tmp_path}/report.json",
        f"--hlo={tmp_path}/program.txt",
    )
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    first, second, third = result.stdout.splitlines()[:3]
    assert first == "train on v5e:2x2: 4 devices, mesh data 1, fsdp 4, tensor 1"
    assert second.startswith("12 sequences (3 per device) of 256 tokens, 1 image slots; bfloat16")
    assert third.startswith("a v5e has 197 TFLOP/s in bfloat16, 16.91 GB at 819 GB/s")
    assert "FITS" in result.stdout
    assert "; xla_tpu_scoped_vmem_limit_kib=" in result.stdout
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["fits"] and report["batch"]["rows"] == 12
    assert "xla_tpu_scoped_vmem_limit_kib" in report["compiler_options"]
    assert (tmp_path / "program.txt").read_text().startswith("HloModule jit_step")


def test_two_slices_quickly(compile_it):
    """The data axis spans them; without one fsdp does, and the table says what that costs."""
    two = ("--topology=v5e:2x2", "--slices=2", "--quick")
    assert "weights go over DCN; config" in compile_it(*two).stdout
    result = compile_it(*two, "--config.mesh.data=2")
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("train on 2 slices of v5e:2x2: 8 devices, mesh data 2, fsdp 4")
    assert "fsdp spans the slices" not in result.stdout
    exchanged = [line.split() for line in result.stdout.splitlines() if " DCN " in line]
    assert [line[:2] for line in exchanged] == [["all-reduce", "DCN"]]


def mesh(**sizes):
    return [f"--config.mesh.{axis}={size}" for axis, size in sizes.items()]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--topology=v5e:2x2", "--config.mesh.fsdp=3"], "takes 3 devices, but there are 4"),
        (["--topology=v5e:4x4"], "batch_size=8 cannot be divided among 16 devices"),
        (
            ["--topology=v5e:2x2", "--slices=3", *mesh(data=4, fsdp=1, tensor=3)],
            "in 3 slices",
        ),
        (
            ["--topology=v5e:2x2", "--quick", "--xla_option=xla_no_such_flag=1"],
            "compiler options: ",
        ),
    ],
)
def test_mistakes_are_one_line(compile_it, flags, message):
    result = compile_it(*flags)
    assert result.returncode == 1, result.stderr
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: ") and message in line
    assert result.stdout == ""


@pytest.mark.parametrize(
    ("flags", "rows", "remedy"),
    [
        (
            ["--batch_per_device=8192"],
            "8,192 per device)",
            "config.compute.remat, or take more chips",
        ),
        (["--batch_per_device=100000000"], "100,000,000 per device)", "lower --batch_per_device"),
        (
            ["--program=decode", "--batch_per_device=1000000", "--new_tokens=64"],
            "1,000,000 per device)",
            "lower config.data.sequence_length, give --dtype=int8, give --cache_dtype=int8, "
            "or take more chips",
        ),
        (
            ["--program=decode", "--config.batch_size=1000001", "--new_tokens=64"],
            "1,000,001 per device, the same on 4 of them)",
            "make config.batch_size a multiple of 4",
        ),
    ],
)
def test_what_does_not_fit_is_an_error(compile_it, tmp_path, flags, rows, remedy):
    result = compile_it(
        "--topology=v5e:2x2",
        "--quick",
        "--config.compute.remat=none",
        f"--json={tmp_path}/report.json",
        *flags,
    )
    assert result.returncode == 1
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: does not fit: ") and remedy in line
    assert "DOES NOT FIT" in result.stdout and rows in result.stdout
    assert json.loads((tmp_path / "report.json").read_text())["fits"] is False


def test_the_step_of_the_notebook_for_a_tpu_vm(tmp_path):
    """Its cell as it is: full size, eight chips."""
    compiling = python_calls(read("tpu_vm"), tmp_path)[0]
    assert compiling[:2] == ["-m", "owl_jax.compile"]
    result = subprocess.run(
        [sys.executable, *compiling, f"--json={tmp_path}/report.json"],
        cwd=EXAMPLES,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["fits"]
    assert (report["devices"], report["batch"]["rows"]) == (8, 16)
