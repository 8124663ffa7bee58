"""A training run whose reader has gone (`| head`) saves before it ends."""

import pytest
import tiny
from training_runs import CONFIG, start

pytestmark = pytest.mark.processes


def test_a_training_that_nobody_reads_saves_and_ends_quietly(tmp_path):
    config = tmp_path / "config.py"
    base = tiny.write_model(tmp_path / "base")
    config.write_text(CONFIG.format(base=base).replace("steps = 20", "steps = 100000"))
    process = start(config, tmp_path / "run", "--config.checkpoint_every=100000")
    try:
        while "/100000 " not in (line := process.stdout.readline()):
            assert line, process.stderr.read()
        process.stdout.close()
        said = process.stderr.read()
        assert (process.wait(timeout=120), said) == (141, "")
    finally:
        process.kill()
    saved = [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()]
    assert any(name.isdigit() and int(name) > 0 for name in saved), saved
