"""A packed row gives each conversation the loss and gradient that it has alone."""

from __future__ import annotations

import dataclasses
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small_step

from owl_jax.data.batch import Batch, Example, SequenceShape, collate
from owl_jax.models.compute import Compute
from owl_jax.models.language.bloom import BloomConfig
from owl_jax.models.lora import LoraConfig
from owl_jax.models.vlm import forward
from owl_jax.training.objectives.next_token import next_token, summed_loss
from owl_jax.training.partition import assign, merge, split
from owl_jax.training.state import new_state
from owl_jax.training.step import make_step

SIDE, LENGTH = 16, 72
LLAMA = dataclasses.replace(
    small_step.LLAMA,
    vision=dataclasses.replace(small_step.LLAMA.vision, temporal=True),
    connector=dataclasses.replace(small_step.LLAMA.connector, temporal=True),
)
BLOOM = dataclasses.replace(
    LLAMA,
    llm=BloomConfig(64, 16, num_layers=2, num_heads=2),
    lora=LoraConfig(2, 4.0, dropout=0.0, targets=("query_key_value",)),
)
SHAPE = SequenceShape(LENGTH, LLAMA.media_lengths(), SIDE, image_slots=3, video_slots=1, frames=2)
MODELS = {"llama": LLAMA, "bloom": BLOOM}
# The whole tree but the vision encoder, so that attention's and ALiBi's gradients are seen, too.
RULES = (("vision/.*", "frozen"), (".*", "trained"))


def conversation(number: int, media: str, words: int, answer: int) -> Example:
    """media: a letter each, "i" or "v", at the start and, from the second on, in the middle."""
    random = np.random.default_rng(number)
    ids, said = [1], iter(random.integers(3, 64, words + answer))
    for letter in media:
        ids += [{"i": -1, "v": -2}[letter]] * LLAMA.num_tokens("image") + [int(next(said))]
    ids += [int(word) for word in said]
    pixels = random.integers(0, 256, (len(media), 2, SIDE, SIDE, 3)).astype(np.uint8)
    images = [clip[0] for clip, letter in zip(pixels, media, strict=True) if letter == "i"]
    videos = [clip for clip, letter in zip(pixels, media, strict=True) if letter == "v"]
    return Example(
        np.array(ids, np.int32),
        np.arange(len(ids)) >= len(ids) - answer,
        np.array(images, np.uint8).reshape(-1, SIDE, SIDE, 3),
        np.array(videos, np.uint8).reshape(-1, 2, SIDE, SIDE, 3),
    )


CONVERSATIONS = (
    conversation(1, "i", 8, 5),
    conversation(2, "", 6, 9),
    conversation(3, "iv", 7, 2),
    conversation(4, "", 3, 1),
    conversation(5, "i", 4, 7),
)
PACKED = collate([CONVERSATIONS], SHAPE)
ALONE = collate([[item] for item in CONVERSATIONS], SHAPE)


@cache
def trees(name: str) -> tuple[Any, Any, Any]:
    """The parameters, and those that are trained and frozen."""
    params = small_step.draw_params(MODELS[name])
    return params, *split(params, assign(params, RULES, {"trained"}))


@partial(jax.jit, static_argnums=0)
def losses(name: str, batch: Batch) -> jax.Array:
    """-log p of each target, float32[B, L]."""
    logits = forward(
        MODELS[name],
        Compute(),
        trees(name)[0],
        batch.input_ids,
        batch.positions,
        batch.segment_ids,
        batch.media_index,
        batch.images,
        batch.videos,
    )
    return -jnp.take_along_axis(jax.nn.log_softmax(logits), batch.targets[..., None], -1)[..., 0]


@cache
def gradient(name: str, packed: bool) -> Any:
    _, trained, frozen = trees(name)

    def loss(trained: Any, batch: Batch) -> jax.Array:
        return summed_loss(MODELS[name], Compute(), merge(trained, frozen), batch)[0]

    return jax.device_get(jax.jit(jax.grad(loss))(trained, PACKED if packed else ALONE))


def test_the_row_is_as_full_as_it_looks():
    assert PACKED.input_ids.shape == (1, LENGTH)
    np.testing.assert_array_equal(np.unique(PACKED.segment_ids), [0, 1, 2, 3, 4, 5])
    assert (PACKED.segment_ids == 0).sum() < 12
    assert PACKED.images.any(axis=(2, 3, 4)).all()  # no image slot is left


@pytest.mark.parametrize("name", MODELS)
def test_each_conversation_has_the_loss_that_it_has_alone(name):
    packed, alone = losses(name, PACKED), losses(name, ALONE)
    for number in range(len(CONVERSATIONS)):
        ours = np.sum((packed * PACKED.loss_mask)[PACKED.segment_ids == number + 1])
        expected = np.sum((alone * ALONE.loss_mask)[number])
        assert expected > 0.5
        np.testing.assert_allclose(ours, expected, rtol=1e-5)


@pytest.mark.parametrize("name", MODELS)
def test_the_gradient_is_the_sum_of_theirs(name):
    packed, alone = gradient(name, True), gradient(name, False)
    whole = np.sqrt(sum(np.sum(np.square(x)) for x in jax.tree.leaves(alone)))
    for (path, ours), expected in zip(
        jax.tree.leaves_with_path(packed), jax.tree.leaves(alone), strict=True
    ):
        # The bias of a key shifts all scores alike: its gradient is zero but for rounding.
        size = max(np.linalg.norm(expected), 1e-3 * whole)
        assert np.linalg.norm(ours - expected) <= 1e-5 * size, path
    assert sum(np.linalg.norm(x) > 1e-3 * whole for x in jax.tree.leaves(alone)) > 30


@pytest.mark.parametrize("name", MODELS)
def test_images_never_meet_the_text_of_others(name):
    """Another picture in a slot changes the conversation that it belongs to, and nothing else."""
    before = np.asarray(losses(name, PACKED))
    for slot, owner in enumerate((1, 3, 5)):
        images = PACKED.images.copy()
        images[:, slot] = 255 - images[:, slot]
        after = np.asarray(losses(name, PACKED.replace(images=images)))
        others = (PACKED.segment_ids != owner) & (PACKED.segment_ids != 0)
        np.testing.assert_array_equal(after[others], before[others])
        theirs = (PACKED.segment_ids == owner) & (PACKED.loss_mask == 1)
        assert np.all(after[theirs] != before[theirs])


@pytest.mark.parametrize("name", MODELS)
def test_words_never_meet_the_words_of_others(name):
    before = np.asarray(losses(name, PACKED))
    ids = np.where(PACKED.segment_ids == 2, (PACKED.input_ids + 7) % 60 + 3, PACKED.input_ids)
    after = np.asarray(losses(name, PACKED.replace(input_ids=ids)))
    others = (PACKED.segment_ids != 2) & (PACKED.segment_ids != 0)
    np.testing.assert_array_equal(after[others], before[others])
    assert np.all(after[PACKED.segment_ids == 2] != before[PACKED.segment_ids == 2])


def test_rows_of_words_pictures_and_videos_are_one_program():
    """The step is traced once, whatever the rows hold."""
    traces = 0
    pieces = small_step.take_apart(LLAMA, RULES)
    plain = make_step(next_token(LLAMA, Compute()), pieces.optimizer, seed=0)

    def counted(*arguments: Any) -> Any:
        nonlocal traces
        traces += 1
        return plain(*arguments)

    step = jax.jit(counted)
    state = new_state(jax.tree.map(jnp.asarray, pieces.trainable), pieces.optimizer)
    words, pictures, clips = (conversation(n, m, 9, 4) for n, m in enumerate(("", "i", "v")))
    batches = (
        ([words], [words, words]),
        ([pictures, pictures], [pictures]),
        ([clips], [words]),
        ([], [clips, pictures, words]),
    )
    for rows in batches:
        state, metrics = step(state, pieces.frozen, collate(rows, SHAPE))
        assert np.isfinite(metrics["loss"]) and metrics["loss"] > 0
    assert traces == 1
