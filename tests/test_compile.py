"""The compile command as far as it gets without the TPU's compiler; the rest: tests/compiled."""

import os
import subprocess
import sys
from pathlib import Path

import forked
import pytest

STAGE2 = Path(__file__).parents[1] / "configs/stage2.py"
SLICE = "--topology=v5e:2x2"
# Hidden where it is installed, so that the tests are the same everywhere.
WITHOUT_LIBTPU = """
import runpy, sys
sys.modules["libtpu"] = None
runpy.run_module("owl_jax.compile", run_name="__main__")
"""


@pytest.mark.parametrize(
    ("flags", "status", "message"),
    [
        ([], 2, "--topology"),
        (["--topology=v9:2x2"], 1, "topology 'v9:2x2': expected one of v4, v5e, v5p, v6e"),
        (["--topology=v5e:64x64"], 1, "topology 'v5e:64x64': v5e is sold as 1x1, 2x2"),
        ([SLICE, "--program=eat"], 2, "should be one of <train|prefill|insert|decode>"),
        ([SLICE, "--config.batch=3"], 2, "batch"),
        ([SLICE, "--xla_option=half"], 1, "--xla_option=half: expected NAME=VALUE"),
        (
            [SLICE, "--dtype=int8"],
            1,
            "--program=train does not take --dtype; give --config.frozen_dtype",
        ),
        (
            [SLICE, "--new_tokens=9"],
            1,
            "does not take --new_tokens; give --config.data.sequence_length",
        ),
        (
            [SLICE, "--cache_dtype=int8"],
            1,
            "--program=train does not take --cache_dtype: training has no cache",
        ),
        (
            [SLICE, "--program=decode", "--config.frozen_dtype=int8"],
            1,
            "--program=decode does not take --config.frozen_dtype; give --dtype",
        ),
        (
            [SLICE, "--program=prefill", "--config.compute.dtype=float32"],
            1,
            "--program=prefill does not take --config.compute.dtype; give --dtype",
        ),
        (
            [SLICE, "--json=/no/such/x"],
            1,
            "--json=/no/such/x: cannot be written (No such file or dir",
        ),
        ([SLICE, "--hlo=/"], 1, "--hlo=/: cannot be written (Is a directory)"),
        ([SLICE], 1, "libtpu, which is not installed: pip install 'owl_jax[tpu]'"),
    ],
)
def test_mistakes_are_one_line(flags, status, message):
    for_tpus = f"import jax\njax.config.update('jax_platforms', 'tpu')\n{WITHOUT_LIBTPU}"
    result = forked.run(
        *("-c", for_tpus, f"--config={STAGE2}", *flags),
        environment=os.environ | {"JAX_PLATFORMS": "tpu"},
    )
    assert result.returncode == status, result.stderr
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: ") and message in line
    assert result.stdout == ""


def test_a_file_to_write_is_checked_and_not_left_behind(tmp_path):
    """benchmarks/aot.py takes a file that is there for a report."""
    result = subprocess.run(
        [sys.executable, "-c", WITHOUT_LIBTPU, f"--config={STAGE2}", SLICE, f"--json={tmp_path}/x"],
        env=os.environ | {"JAX_PLATFORMS": "tpu"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert "libtpu, which is not installed" in result.stderr
    assert list(tmp_path.iterdir()) == []
