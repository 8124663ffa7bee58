"""The table covers each variant's tree: every leaf once, every name once."""

import golden
import pytest
from flax.traverse_util import flatten_dict

from owl_jax.checkpoint.hf_import import abstract_params
from owl_jax.models.families import family_for
from owl_jax.models.families.mplug_owl import VARIANTS
from owl_jax.models.families.mplug_owl2 import MPLUG_OWL2_7B
from owl_jax.models.weight_names import BUFFERS

CONFIGS = {
    **VARIANTS,
    "owl2": MPLUG_OWL2_7B,
    **{
        case: golden.model(case)[0]
        for case in (golden.LLAMA, golden.BLOOM, golden.VIDEO, golden.OWL2)
    },
}


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())
def test_every_leaf_and_every_name_is_in_one_row(config):
    rows = family_for(config).weight_rows(config)
    targets = [row.target for row in rows]
    assert sorted(targets) == sorted(flatten_dict(abstract_params(config), sep="/"))
    assert len({row.source for row in rows}) == len(rows)
    assert {row.per_layer for row in rows if "/layers/" in row.target} == {True}
    assert {row.per_layer for row in rows if "/layers/" not in row.target} == {False}


@pytest.mark.parametrize(
    ("name", "is_buffer"),
    [
        ("language_model.model.layers.3.self_attn.rotary_emb.inv_freq", True),
        ("vision_model.embeddings.position_ids", True),
        ("vision_model.embeddings.position_embedding", False),
        ("language_model.model.layers.3.self_attn.q_proj.weight", False),
    ],
)
def test_buffers_of_old_checkpoints_are_known(name, is_buffer):
    assert bool(BUFFERS.fullmatch(name)) == is_buffer
