"""Memory layouts of weights. CPU devices keep the layouts that they are given, too."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict
from jax.experimental.layout import Format

from owl_jax.inference import core
from owl_jax.inference.layouts import formats
from owl_jax.inference.prompt import prompt_arrays
from owl_jax.models.compute import Compute
from owl_jax.models.config import OwlConfig
from owl_jax.models.language.bloom import BloomConfig
from owl_jax.models.language.llama import LlamaConfig
from owl_jax.models.vlm import abstract_params, init_params
from owl_jax.parallel.mesh import make_mesh
from owl_jax.parallel.sharding import LogicalRules, on_mesh, param_shardings

LLAMA = OwlConfig(None, None, LlamaConfig(64, 16, 32, 2, num_heads=4, num_kv_heads=2))
BLOOM = OwlConfig(None, None, BloomConfig(64, 16, num_layers=2, num_heads=4))


def formats_on(mesh, config, platform):
    boxed = abstract_params(config)
    shardings = flatten_dict(param_shardings(boxed, mesh, LogicalRules()))
    flat = flatten_dict(nn.meta.unbox(boxed))
    return formats(config, flat, shardings, platform), shardings


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (
            LLAMA,
            {
                **dict.fromkeys(("q_proj", "k_proj", "v_proj"), (0, 2, 1, 3)),
                "o_proj": (0, 1, 2, 3),
                **dict.fromkeys(("gate_proj", "up_proj", "down_proj"), (0, 1, 2)),
                "lm_head": (0, 1),
            },
        ),
        (
            BLOOM,
            {
                "query_key_value": (0, 2, 3, 1, 4),
                "dense": (0, 1, 2, 3),
                **dict.fromkeys(("dense_h_to_4h", "dense_4h_to_h"), (0, 1, 2)),
            },
        ),
    ],
)
def test_width_and_head_width_share_tiles(config, expected):
    mesh = make_mesh(1, 2, 2, devices=jax.devices()[:4])
    found, shardings = formats_on(mesh, config, "tpu")
    orders = {
        path[-2]: each.layout.major_to_minor
        for path, each in found.items()
        if isinstance(each, Format)
    }
    assert orders == expected
    for path, each in found.items():
        assert (each.sharding if isinstance(each, Format) else each) == shardings[path]
    assert formats_on(mesh, config, "cpu")[0] == shardings


@pytest.mark.parametrize("config", [LLAMA, BLOOM])
def test_answers_do_not_depend_on_layouts(config):
    mesh = make_mesh(1, 2, 2, devices=jax.devices()[:4])
    found, shardings = formats_on(mesh, config, "tpu")
    flat = flatten_dict(nn.meta.unbox(init_params(config, Compute(), jax.random.key(0))))
    prompt = prompt_arrays(config, np.full((4, 64), 5, np.int32))

    def logits(where):
        params = unflatten_dict({path: jax.device_put(x, where[path]) for path, x in flat.items()})
        with on_mesh(mesh, 4):
            return core.prefill(config, Compute(dtype=jnp.float32), params, prompt).logits

    np.testing.assert_allclose(logits(found), logits(shardings), atol=1e-5)
