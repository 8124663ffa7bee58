"""A PyTorch that is installed is not imported for TensorBoard's files."""

import os
import subprocess
import sys
from pathlib import Path

SCRIPT = """
import sys
from owl_jax.training.hooks.event_files import EventsWriter
assert "torch" not in sys.modules, "imported"
try:
    import torch
except RuntimeError as error:
    print(EventsWriter.__name__, error)
"""


def test_pytorch_is_not_imported_and_can_be_later(tmp_path):
    (tmp_path / "torch.py").write_text("raise RuntimeError('this is PyTorch')")
    path = os.pathsep.join([str(tmp_path), str(Path(__file__).parents[2])])
    result = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
    )
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout == "EventsWriter this is PyTorch\n"
