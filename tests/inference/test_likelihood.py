"""Losses of continuations and probabilities of next tokens are those of the whole sequence."""

import dataclasses

import flax.linen as nn
import jax
import numpy as np
import pytest

from owl_jax.errors import UserError
from owl_jax.inference.api import Owl
from owl_jax.inference.likelihood import Likelihood
from owl_jax.inference.requests import ChatPrompt
from owl_jax.models.config import OwlConfig
from owl_jax.models.connectors.abstractor import AbstractorConfig
from owl_jax.models.language.bloom import BloomConfig
from owl_jax.models.language.llama import LlamaConfig
from owl_jax.models.language.owl2 import Owl2LlamaConfig
from owl_jax.models.vision.clip import ClipConfig
from owl_jax.models.vlm import abstract_params
from owl_jax.parallel.mesh import make_mesh
from owl_jax.parallel.sharding import LogicalRules, param_shardings

FRAMES = 2
LANGUAGE = {
    "llama": LlamaConfig(97, 32, 64, 2, num_heads=4, num_kv_heads=2, max_positions=128),
    "bloom": BloomConfig(97, 32, num_layers=2, num_heads=4),
    "owl2": Owl2LlamaConfig(97, 32, 64, 2, num_heads=4, num_kv_heads=2, max_positions=128),
}


def make_owl(llm, mesh=None):
    config = OwlConfig(
        vision=ClipConfig(28, 14, 16, 32, num_layers=1, num_heads=2, temporal=True),
        connector=AbstractorConfig(6, 16, 32, num_layers=1, num_heads=2, temporal=True),
        llm=LANGUAGE[llm],
    )
    random = np.random.default_rng(0)
    boxed = abstract_params(config)
    shardings = None if mesh is None else param_shardings(boxed, mesh, LogicalRules())

    def draw(leaf):
        return random.normal(0, 1.5 * leaf.shape[-1] ** -0.5, leaf.shape).astype(np.float32)

    return Owl(
        config, jax.device_put(jax.tree.map(draw, nn.meta.unbox(boxed)), shardings), mesh=mesh
    )


def prompt_with_media(owl):
    random = np.random.default_rng(1)
    ids = [
        *random.integers(3, 97, 5),
        *[-2] * owl.num_tokens("video", FRAMES),
        *random.integers(3, 97, 30),
        *[-1] * owl.num_tokens("image"),
        *random.integers(3, 97, 20),
    ]
    pictures = [random.integers(0, 256, (28, 28, 3), np.uint8)]
    clips = [random.integers(0, 256, (FRAMES, 28, 28, 3), np.uint8)]
    return ChatPrompt(np.asarray(ids, np.int32), pictures, clips)


CONTINUATIONS = ([5], [9, 11, 96], [5, 5, 7, 8, 20, 31, 44, 50, 61], [96])


def expected_losses(owl, prompt, continuations):
    """By the logits of the prompt and the continuation in one forward pass each."""
    found = []
    for tokens in continuations:
        ids = [*prompt.input_ids, *tokens]
        media = {"images": np.stack(prompt.images), "videos": np.stack(prompt.videos)}
        logprobs = jax.nn.log_softmax(owl.logits([ids], **media)[0])
        start = len(prompt.input_ids) - 1
        found.append(-sum(logprobs[start + i, token] for i, token in enumerate(tokens)))
    return np.asarray(found)


def scorer(owl, **more):
    return Likelihood(owl.config, *owl.compiled_form, owl.mesh, **more)


@pytest.mark.parametrize("llm", LANGUAGE)
def test_losses_are_those_of_the_whole_sequence(llm):
    owl = make_owl(llm)
    prompt = prompt_with_media(owl)
    found = scorer(owl).losses(prompt, CONTINUATIONS)
    np.testing.assert_allclose(found, expected_losses(owl, prompt, CONTINUATIONS), rtol=2e-5)
    assert len(set(np.asarray(found).tolist())) == len(CONTINUATIONS)


@pytest.fixture(scope="module")
def owl():
    return make_owl("llama")


def test_next_tokens_are_those_of_the_prompts_logits(owl):
    prompt = prompt_with_media(owl)
    found = scorer(owl).logprobs(prompt, [5, 96])
    expected = -expected_losses(owl, prompt, [[5], [96]])
    np.testing.assert_allclose(found, expected, rtol=2e-5)


def test_losses_do_not_depend_on_the_other_continuations_or_on_what_came_before(owl):
    prompt = prompt_with_media(owl)
    scores = scorer(owl, media_cache_bytes=0)
    together = np.asarray(scores.losses(prompt, CONTINUATIONS))
    scores.losses(ChatPrompt(prompt.input_ids[:5]), [[3], [4]])
    assert np.array_equal(scores.losses(prompt, CONTINUATIONS), together)
    for tokens, loss in zip(CONTINUATIONS, together, strict=True):
        np.testing.assert_allclose(scores.losses(prompt, [tokens]), [loss], rtol=1e-5)


def test_on_a_mesh(owl):
    sharded = make_owl("llama", make_mesh(2, 2, 2))
    prompt = prompt_with_media(owl)
    expected = scorer(owl).losses(prompt, CONTINUATIONS)
    np.testing.assert_allclose(scorer(sharded).losses(prompt, CONTINUATIONS), expected, rtol=1e-4)


def test_what_cannot_be_scored_is_refused(owl):
    prompt = prompt_with_media(owl)
    with pytest.raises(UserError, match="a continuation has no tokens"):
        scorer(owl).losses(prompt, [[3], []])
    with pytest.raises(UserError, match=r"has \d+ tokens and a continuation 70; .* is 128"):
        scorer(owl).losses(prompt, [[3] * 70])
    with pytest.raises(UserError, match="do not match the images"):
        scorer(owl).losses(dataclasses.replace(prompt, images=[]), [[3]])
