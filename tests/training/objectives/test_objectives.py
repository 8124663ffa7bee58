"""An objective of one's own, through the config; what the step asks of any."""

import dataclasses
import runpy
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small_step
import tiny
from small_step import LLAMA, make_batch
from training_runs import CONFIG, metrics_of

from owl_jax.errors import UserError
from owl_jax.models.compute import Compute
from owl_jax.models.vlm import forward
from owl_jax.training.loop import train
from owl_jax.training.objectives.next_token import losses_by_token, next_token, summed_loss
from owl_jax.training.partition import merge
from owl_jax.training.state import new_state
from owl_jax.training.step import make_step


@dataclasses.dataclass(frozen=True)
class SquaredLoss:
    """A made-up one: the square of each token's loss; and how many cost more than `most`."""

    most: float = 5.0

    def __call__(self, model, compute):
        def objective(params, batch, rng):
            logits = forward(
                model,
                compute,
                params,
                batch.input_ids,
                batch.positions,
                batch.segment_ids,
                batch.media_index,
                batch.images,
                batch.videos,
                rng,
            )
            chosen = jnp.take_along_axis(logits, batch.targets[..., None], -1)[..., 0]
            losses = jax.nn.logsumexp(logits, axis=-1) - chosen
            costly = jnp.sum((losses > self.most) * batch.loss_mask)
            return (
                jnp.sum(losses**2 * batch.loss_mask),
                jnp.sum(batch.loss_mask),
                {"squared/costly": costly},
            )

        return objective


@pytest.fixture(scope="module")
def config_file(tmp_path_factory):
    directory = tmp_path_factory.mktemp("objectives")
    base = tiny.write_model(directory / "base")
    (directory / "config.py").write_text(CONFIG.format(base=base).lstrip())
    return directory / "config.py"


def make_config(config_file):
    config = runpy.run_path(str(config_file))["get_config"]()
    config.steps, config.export = 8, "none"
    for recipe in config.recipes.values():
        recipe.schedule = "constant"
    return config


def test_an_objective_of_ones_own_is_trained(config_file, tmp_path):
    config = make_config(config_file)
    config.objective, config.compute.scan_layers = SquaredLoss(), True  # forward takes them stacked
    train(config, tmp_path / "squared")
    lines = metrics_of(tmp_path / "squared")
    losses = [line["loss"] for line in lines]
    assert np.mean(losses[-3:]) < np.mean(losses[:3])
    assert all(0 <= line["squared/costly"] <= 1 for line in lines)
    assert "SquaredLoss(most=5.0)" in (tmp_path / "squared" / "config.json").read_text()

    train(make_config(config_file), tmp_path / "next_token")
    (first, *_), (other, *_) = lines, metrics_of(tmp_path / "next_token")
    assert first["supervised_tokens"] == other["supervised_tokens"]
    assert first["loss"] >= other["loss"] ** 2  # the mean of squares, on the same batch


@pytest.mark.parametrize("wrong", ["next_token", None, 3])
def test_what_is_no_objective_is_one_line(config_file, tmp_path, wrong):
    config = make_config(config_file)
    config.objective = wrong
    with pytest.raises(UserError, match=r"config.objective=.*expected a function") as error:
        train(config, tmp_path / "run")
    assert "\n" not in str(error.value)


def pieces_and_batch(objective, accumulate):
    pieces = small_step.take_apart(LLAMA, small_step.stage_rules("stage2"))
    step = make_step(objective, pieces.optimizer, seed=0, accumulate=accumulate)
    state = new_state(jax.tree.map(jnp.asarray, pieces.trainable), pieces.optimizer)
    return jax.jit(step), state, pieces.frozen, make_batch(LLAMA, (1, 12, 1, 3, 1, 12, 2, 3))


def test_metrics_of_micro_batches_are_those_of_the_whole():
    objective = SquaredLoss(4.0)(LLAMA, Compute())
    results = []
    for accumulate in (1, 4):
        step, *arguments = pieces_and_batch(objective, accumulate)
        results.append(step(*arguments)[1])
    whole, parts = results
    assert whole.keys() == parts.keys()
    assert 0 < whole["squared/costly"] < 1
    for name in whole:
        np.testing.assert_allclose(parts[name], whole[name], rtol=1e-5)


def test_the_weight_may_be_any_positive_number():
    """Weights below one, too: the loss is still the quotient."""
    plain = next_token(LLAMA, Compute())

    def lighter(params, batch, rng):
        total, weight, metrics = plain(params, batch, rng)
        return total / 1000, weight / 1000, metrics

    results = []
    for objective in (plain, lighter):
        step, *arguments = pieces_and_batch(objective, 1)
        results.append(step(*arguments)[1])
    np.testing.assert_allclose(results[1]["loss"], results[0]["loss"], rtol=1e-5)
    np.testing.assert_allclose(results[1]["grad_norm"], results[0]["grad_norm"], rtol=1e-4)
    assert results[0]["supervised_tokens"] == results[1]["supervised_tokens"] == 35


def test_a_metric_named_as_one_of_the_steps_own():
    def objective(params, batch, rng):
        return jnp.zeros(()), jnp.ones(()), {"grad_norm": jnp.ones(())}

    step, *arguments = pieces_and_batch(objective, 1)
    with pytest.raises(
        UserError, match="uses metric names of the training step: grad_norm; rename"
    ):
        step(*arguments)


@pytest.mark.parametrize("tile", [0, 7, 24])
def test_losses_by_token_add_up_to_the_loss(tile):
    pieces = small_step.take_apart(LLAMA, small_step.stage_rules("stage2"))
    params, compute = merge(pieces.trainable, pieces.frozen), Compute(loss_tile=tile)
    batch = make_batch(LLAMA, (1, 12, 0, 3))
    losses = jax.jit(partial(losses_by_token, LLAMA, compute))(params, batch)
    assert losses.shape == batch.loss_mask.shape
    assert (losses[batch.loss_mask == 0] == 0).all()
    assert (losses[batch.loss_mask == 1] > 0).all()
    total, _ = jax.jit(partial(summed_loss, LLAMA, compute))(params, batch)
    np.testing.assert_allclose(losses.sum(), total, rtol=1e-6)
    whole = jax.jit(partial(losses_by_token, LLAMA, Compute()))(params, batch)
    np.testing.assert_allclose(losses, whole, rtol=1e-5)
