"""What a TPU pod computes, on eight CPU devices: splash attention, offloading, loss tiles."""

import flax.linen as nn
import jax
import numpy as np
import pytest
import small_step
from small_step import MODELS

from owl_jax.data.batch import Batch, Example, SequenceShape, collate
from owl_jax.models.compute import Compute
from owl_jax.models.vlm import init_params
from owl_jax.parallel.mesh import make_mesh
from owl_jax.parallel.sharding import LogicalRules, param_shardings, shard_batch
from owl_jax.training.objectives.next_token import summed_loss

LENGTH = 160
RULES = LogicalRules()
POD = Compute(attention="splash", remat="save:context;offload:gate,up", loss_tile=64)


def packed_batch(config):
    """Four rows of two conversations with a picture each, and padding."""
    random = np.random.default_rng(0)
    side = config.vision.image_size

    def conversation(words):
        picture = [-1] * config.num_tokens("image")
        ids = np.array([1, *picture, *random.integers(3, config.llm.vocab_size, words)], np.int32)
        images = random.integers(0, 256, (1, side, side, 3)).astype(np.uint8)
        return Example(ids, np.arange(len(ids)) > 20, images, images[:0, None])

    rows = [[conversation(words) for words in pair] for pair in ((90, 40), (30, 70)) * 2]
    return collate(rows, SequenceShape(LENGTH, config.media_lengths(), side, image_slots=2))


@pytest.mark.parametrize("name", MODELS)
def test_loss_and_gradient_are_those_of_one_cpu(name):
    config, params = MODELS[name], small_step.draw_params(MODELS[name])
    batch = packed_batch(config)
    trained = {branch: params[branch] for branch in ("llm", "lora")}

    def run(compute, params, trained, batch):
        loss = lambda trained: summed_loss(config, compute, {**params, **trained}, batch)[0]  # noqa: E731
        return jax.jit(jax.value_and_grad(loss))(trained)

    loss, gradient = run(Compute(), params, trained, batch)
    mesh = make_mesh(2, 2, 2)
    boxed = jax.eval_shape(lambda key: init_params(config, Compute(), key), jax.random.key(0))
    placed = jax.device_put(params, param_shardings(boxed, mesh, RULES))
    trained = {branch: placed[branch] for branch in trained}
    with jax.set_mesh(mesh), nn.logical_axis_rules(RULES.flax_rules()):
        ours = run(POD, placed, trained, Batch(**shard_batch(vars(batch), mesh)))
    np.testing.assert_allclose(ours[0], loss, rtol=1e-5)
    largest = max(np.abs(g).max() for g in jax.tree.leaves(gradient))
    for x, y in zip(jax.tree.leaves(ours[1]), jax.tree.leaves(gradient), strict=True):
        np.testing.assert_allclose(x, y, rtol=0, atol=1e-5 * largest)
