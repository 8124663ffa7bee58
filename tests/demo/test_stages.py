"""What train_stage refuses; training itself is tested in test_loop.py and by the demonstration."""

from pathlib import Path

import pytest

from owl_jax.demo.stages import train_stage
from owl_jax.errors import UserError

STAGE = Path(__file__).parents[2] / "configs" / "demo" / "stage0.py"


def test_a_missing_config_is_named(tmp_path):
    with pytest.raises(UserError, match=r"stage7\.py is missing; .*--configs"):
        train_stage(tmp_path / "stage7.py", tmp_path, {})


@pytest.mark.parametrize("scale", [0.0, -1.0, float("nan"), float("inf")])
def test_a_scale_is_above_zero(tmp_path, scale):
    with pytest.raises(UserError, match="above 0"):
        train_stage(STAGE, tmp_path, {}, scale)
    assert not list(tmp_path.iterdir())


def test_config_init_and_steps_are_what_was_asked_for(tmp_path):
    seen = {}

    def change(config):
        config.seed = 3
        seen["config"] = config

    missing = tmp_path / "nowhere"
    with pytest.raises(UserError, match="nowhere"):
        train_stage(STAGE, tmp_path / "run", {"llm": missing}, 0.001, change)
    config = seen["config"]
    assert (config.steps, config.seed, config.init.llm) == (3, 3, str(missing))
    assert all(recipe.warmup_steps == 1 for recipe in config.recipes.values())
