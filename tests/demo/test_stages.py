"""What train_stage refuses; training itself is tested in test_loop.py and by the demonstration."""

import os
import runpy
from pathlib import Path

import forked
import jax
import numpy as np
import pytest

from owl_jax.demo.stages import train_stage
from owl_jax.errors import UserError
from owl_jax.parallel.mesh import make_mesh
from owl_jax.training import config as settings
from owl_jax.training.data import open_data
from owl_jax.training.init_params import initialize
from owl_jax.training.train_program import make_program

ROOT = Path(__file__).parents[2]
STAGE = ROOT / "configs" / "demo" / "stage0.py"


def test_a_missing_config_is_named(tmp_path):
    with pytest.raises(UserError, match=r"stage7\.py is missing; .*--configs"):
        train_stage(tmp_path / "stage7.py", tmp_path, {})


@pytest.mark.parametrize("scale", [0.0, -1.0, float("nan"), float("inf")])
def test_a_scale_is_above_zero(tmp_path, scale):
    with pytest.raises(UserError, match="above 0"):
        train_stage(STAGE, tmp_path, {}, scale)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("flags", ["", "--xla_force_host_platform_device_count=3"])
def test_each_core_is_a_device(flags):
    script = """
import jax
from owl_jax.demo.stages import use_cores_well
use_cores_well()
print(jax.device_count())
"""
    result = forked.run("-c", script, environment={**os.environ, "XLA_FLAGS": flags})
    assert result.returncode == 0, result.stderr
    cores = os.cpu_count()
    expected = 3 if flags else max(n for n in (1, 2, 4, 8) if n <= cores)
    assert int(result.stdout) == expected


def config_of(workdir, scale=1.0, seed=0):
    """The config that a stage trains, which a missing model stops at its start."""
    seen = []
    with pytest.raises(UserError, match="nowhere"):
        train_stage(STAGE, workdir, {"llm": workdir / "nowhere"}, scale, seed, seen.append)
    (config,) = seen
    return config


def test_config_init_and_steps_are_what_was_asked_for(tmp_path):
    whole = runpy.run_path(str(STAGE))["get_config"]().steps
    config = config_of(tmp_path / "run", 3 / whole, 5)
    assert (config.steps, config.seed) == (3, 5)
    assert config.init.llm == str(tmp_path / "run" / "nowhere")
    assert all(recipe.warmup_steps == 1 for recipe in config.recipes.values())
    assert [source.seed for source, *_ in config.data.mixture] == [5]


def test_two_seeds_differ_in_data_and_weights(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)

    def first_batch_and_weights(seed):
        config = config_of(tmp_path / "run", seed=seed)
        config.init.llm = settings.FRESH
        config.batch_size = 8  # for the tests' eight devices
        data = open_data(config, settings.read_model(config))
        try:
            batch = next(data.batches)
        finally:
            data.close()
        return batch.input_ids, initialize(config, make_program(config, make_mesh(**config.mesh)))

    (ids, weights), (same_ids, _), (other_ids, others) = map(first_batch_and_weights, (1, 1, 2))
    assert np.array_equal(ids, same_ids) and not np.array_equal(ids, other_ids)
    matrices = [leaf for leaf in jax.tree.leaves(weights) if leaf.ndim > 1 and leaf.std() > 0]
    changed = [leaf for leaf in jax.tree.leaves(others) if leaf.ndim > 1 and leaf.std() > 0]
    assert len(matrices) > 20
    assert not any(np.array_equal(*pair) for pair in zip(matrices, changed, strict=True))
