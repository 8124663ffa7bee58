"""The compile command as far as it gets without the TPU's compiler; the rest: tests/compiled."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

STAGE2 = Path(__file__).parents[1] / "configs/stage2.py"
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
        (["--topology=v5p:8x8"], 1, "a slice of v5p has 3 dimensions, as in v5p:4x4x4"),
        (["--topology=v5e:2x2", "--program=eat"], 2, "should be one of <train|prefill|decode>"),
        (["--topology=v5e:2x2", "--config.batch=3"], 2, "batch"),
        (["--topology=v5e:2x2", "--xla_option=half"], 1, "--xla_option=half: expected NAME=VALUE"),
        (["--topology=v5e:2x2"], 1, "libtpu, which is not installed: pip install 'owl_jax[tpu]'"),
    ],
)
def test_mistakes_are_one_line(flags, status, message):
    result = subprocess.run(
        [sys.executable, "-c", WITHOUT_LIBTPU, f"--config={STAGE2}", *flags],
        env=os.environ | {"JAX_PLATFORMS": "tpu"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == status, result.stderr
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: ") and message in line
    assert result.stdout == ""
