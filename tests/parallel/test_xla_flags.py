import os
import subprocess
import sys
from collections import Counter

import pytest

from owl_jax.errors import UserError
from owl_jax.parallel.xla_flags import (
    CHIPS,
    TPUS,
    explain,
    flags_for,
    in_use,
)


def joined(chip):
    return " ".join(str(flag) for flag in flags_for(chip))


def names(chip):
    return {flag.name for flag in flags_for(chip)}


@pytest.mark.parametrize("chip", CHIPS)
def test_each_flag_is_set_once_with_a_reason_and_a_source(chip):
    flags = flags_for(chip)
    assert max(Counter(flag.name for flag in flags).values(), default=1) == 1
    for flag in flags:
        assert flag.name.startswith("xla_")
        assert all((flag.value, flag.group, flag.why, flag.source))
        assert " " not in str(flag)  # the variables are split at spaces
        assert str(flag) in explain(chip)
        assert flag.source in explain(chip)


def test_the_flags_that_libtpu_refuses_elsewhere_are_v5e_only():
    fusion = {flag.name for flag in flags_for("v5e") if flag.group == "gather fusion"}
    assert "xla_tpu_enable_async_collective_fusion_fuse_all_gather" in fusion
    for chip in ("v4", "v5p", "v6e"):
        assert not fusion & names(chip)


def test_no_operation_gets_more_vmem_than_there_is():
    vmem_mib = {"v5e": 128, "v5p": 64, "v6e": 128}  # jax/_src/pallas/mosaic/tpu_info.py
    for chip in TPUS:
        limits = [f for f in flags_for(chip) if f.name == "xla_tpu_scoped_vmem_limit_kib"]
        if chip in vmem_mib:
            assert 16 * 1024 < int(limits[0].value) <= vmem_mib[chip] * 1024
        else:
            assert not limits


def test_platforms_do_not_mix():
    assert all("_gpu_" not in name for chip in TPUS for name in names(chip))
    assert all("_gpu_" in name for name in names("gpu"))
    assert flags_for("cpu") == ()
    assert "defaults" in explain("cpu")


@pytest.mark.parametrize("function", [flags_for, explain])
def test_an_unknown_chip_is_refused(function):
    with pytest.raises(UserError, match="'v7x'; expected one of v4, v5e, v5p, v6e, gpu, cpu"):
        function("v7x")


def start_jax(flags):
    """Starts JAX on the CPU, whose jaxlib parses a GPU's flags too."""
    return subprocess.run(
        [sys.executable, "-c", "import jax; print(jax.numpy.zeros(1))"],
        env={**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
    )


def test_xla_knows_the_flags_of_a_gpu():
    known = start_jax(joined("gpu"))
    assert known.returncode == 0, known.stderr
    unknown = start_jax(joined("gpu") + " --xla_gpu_no_such_flag=true")
    assert unknown.returncode != 0
    assert "Unknown flag" in unknown.stderr


def command(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "owl_jax.parallel.xla_flags", *arguments],
        capture_output=True,
        text=True,
    )


def test_the_command_prints_what_the_variable_takes():
    result = command("--chip=v5e")
    assert result.returncode == 0, result.stderr
    assert result.stdout == joined("v5e") + "\n"
    assert command("--chip=gpu").stdout == joined("gpu") + "\n"
    assert command("--chip=cpu").stdout == "\n"
    assert command("--chip=v6e", "--explain").stdout == explain("v6e") + "\n"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [(["--chip=v9"], "'v9'"), ([], "--chip"), (["--chip=v4", "--no"], "--no")],
)
def test_wrong_arguments(arguments, words):
    result = command(*arguments)
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr.startswith("error: ")
    assert words in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_what_is_in_use_is_told_with_what_is_missing(monkeypatch):
    monkeypatch.setenv("LIBTPU_INIT_ARGS", f"{joined('v5p')} --xla_mine=1")
    first, *lines = in_use("TPU v5p").splitlines()
    assert first == "LIBTPU_INIT_ARGS on TPU v5p:"
    assert lines[-1].split() == ["--xla_mine=1", "set", "by", "hand"]
    assert len(lines) == len(flags_for("v5p")) + 1

    monkeypatch.setenv("LIBTPU_INIT_ARGS", "--xla_tpu_scoped_vmem_limit_kib=1024")
    first, second, third = in_use("TPU v5 lite").splitlines()
    assert second.split()[0] == "--xla_tpu_scoped_vmem_limit_kib=1024"
    assert third.startswith("  not set: ") and "xla_enable_async_all_gather=true" in third
    assert "scoped_vmem" not in third and "--chip=v5e" in third

    monkeypatch.delenv("XLA_FLAGS", raising=False)
    assert in_use("NVIDIA H100 80GB HBM3").startswith("XLA_FLAGS on NVIDIA H100 80GB HBM3: none")
    assert in_use("cpu") == ""
