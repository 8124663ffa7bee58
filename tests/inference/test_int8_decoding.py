"""An int8 cache in whole models: its error, and that decoding reads what prefill reads."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import owl_jax
from owl_jax.errors import UserError
from owl_jax.inference.api import Owl
from owl_jax.models.config import OwlConfig
from owl_jax.models.connectors.abstractor import AbstractorConfig
from owl_jax.models.language.bloom import BloomConfig
from owl_jax.models.language.decoder import Decoder, DecoderBlock
from owl_jax.models.language.llama import LlamaConfig
from owl_jax.models.language.mistral import MistralConfig
from owl_jax.models.language.owl2 import Owl2LlamaConfig
from owl_jax.models.vision.clip import ClipConfig
from owl_jax.models.vlm import abstract_params
from owl_jax.parallel.mesh import make_mesh
from owl_jax.parallel.sharding import LogicalRules, param_shardings

LANGUAGE = {
    "mistral": MistralConfig(97, 32, 64, 2, num_heads=4, num_kv_heads=2, sliding_window=30),
    "bloom": BloomConfig(97, 32, num_layers=2, num_heads=4),
    "owl2": Owl2LlamaConfig(97, 32, 64, 2, num_heads=4, num_kv_heads=2),
}
L, NEW = 50, 14  # tokens of a prompt and of its answer: together 64, one length for logits


def pair(name, mesh=None):
    """The same model without and with an int8 cache."""
    config = OwlConfig(
        vision=ClipConfig(28, 14, 16, 32, num_layers=1, num_heads=2),
        connector=AbstractorConfig(6, 16, 32, num_layers=1, num_heads=2),
        llm=LANGUAGE[name],
    )
    random = np.random.default_rng(0)
    boxed = abstract_params(config)
    params = jax.tree.map(
        lambda leaf: random.normal(0, 1.5 * leaf.shape[-1] ** -0.5, leaf.shape).astype(np.float32),
        nn.meta.unbox(boxed),
    )
    params = jax.device_put(
        params, None if mesh is None else param_shardings(boxed, mesh, LogicalRules())
    )
    return [Owl(config, params, mesh=mesh, cache_dtype=dtype) for dtype in ("auto", "int8")]


def prompts(owl):
    """Two prompts; the first has a picture."""
    random = np.random.default_rng(1)
    ids = random.integers(3, 97, (2, L), np.int32)
    ids[0, 4 : 4 + owl.num_tokens("image")] = -1
    return ids, random.integers(0, 256, (1, 28, 28, 3), np.uint8)


@pytest.mark.parametrize("name", LANGUAGE)
def test_its_error_is_small_and_decoding_reads_what_prefill_reads(name):
    exact, narrow = pair(name)
    ids, images = prompts(exact)
    answer = narrow.generate(ids, images, max_new_tokens=NEW, eos_token_id=-1)
    whole = np.concatenate([ids, answer], axis=1)
    expected, found = (np.asarray(owl.logits(whole, images)) for owl in (exact, narrow))
    error = np.linalg.norm(found - expected) / np.linalg.norm(expected)
    assert 1e-4 < error < 0.02
    # The logits of the whole at once choose the tokens that were decoded one by one.
    read = found[:, L - 1 : -1]
    chosen = np.take_along_axis(read, answer[..., None], axis=-1)[..., 0]
    assert (chosen > read.max(axis=-1) - 1e-3).all()


def test_a_mesh_gives_the_same_tokens():
    _, narrow = pair("owl2")
    ids, images = prompts(narrow)
    _, on_mesh = pair("owl2", make_mesh(data=2, fsdp=2, tensor=2))
    settings = {"max_new_tokens": NEW, "eos_token_id": -1}
    np.testing.assert_array_equal(
        on_mesh.generate(ids, images, **settings), narrow.generate(ids, images, **settings)
    )


class CarelessBlock(DecoderBlock):
    """A user's layer that does not know of int8."""

    def __call__(self, *given, **settings):
        x, stored = super().__call__(*given, **settings)
        return x, {name: stored[name].astype(jnp.float32) for name in "kv"}


class Careless(Decoder):
    @nn.nowrap
    def block(self):
        return CarelessBlock


@dataclasses.dataclass(frozen=True)
class CarelessConfig(LlamaConfig):
    def build(self, compute, lora):
        return Careless(self, compute, lora)


def test_a_language_model_that_does_not_quantise_is_refused():
    config = OwlConfig(None, None, CarelessConfig(97, 32, 64, 1, num_heads=2, num_kv_heads=2))
    params = jax.tree.map(
        lambda leaf: jnp.zeros(leaf.shape), nn.meta.unbox(abstract_params(config))
    )
    owl = Owl(config, params, cache_dtype="int8")
    with pytest.raises(UserError, match="must call cached_form"):
        owl.generate(np.ones((1, 3), np.int32))


def test_another_dtype_is_refused():
    with pytest.raises(UserError, match="cache_dtype 'fp8'; expected one of auto, int8"):
        owl_jax.load("anywhere", cache_dtype="fp8")
