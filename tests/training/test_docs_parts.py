"""docs/add_a_connector.md and docs/add_a_vision_encoder.md, as they are."""

import json

import jax
import numpy as np
import pytest
from docs_page import blocks_of, run_page
from flax.traverse_util import flatten_dict
from small_parts import make_data
from training_runs import metrics_of

from owl_jax.checkpoint.hf_import import abstract_params
from owl_jax.checkpoint.model_directory import open_model, open_subtrees
from owl_jax.checkpoint.safetensors_writer import write_shards
from owl_jax.checkpoint.tensors import to_source
from owl_jax.models.config import PARTS
from owl_jax.models.families.mplug_owl import around
from owl_jax.models.own_parts import load_parts

pytestmark = pytest.mark.processes


@pytest.fixture(autouse=True)
def _no_part_is_left():
    before = {kind: dict(parts) for kind, parts in PARTS.items()}
    yield
    for kind, parts in before.items():
        PARTS[kind].clear()
        PARTS[kind].update(parts)


def words(text):
    return [line.split() for line in text.splitlines()]


def test_a_connector(tmp_path):
    make_data(tmp_path)
    trained, asked, _, converted = run_page("add_a_connector.md", tmp_path)
    # side=4 of the command: all 4 x 4 patches make one token.
    assert ["connector", "connector", "1,056", "1,056", "0.001"] in words(trained)
    assert [line["skipped"] for line in metrics_of(tmp_path / "runs" / "pool")] == [0, 0]
    assert asked.splitlines()[0] == "1"
    assert "half (orbax)" in converted
    opened = open_model(tmp_path / "half")
    assert opened.config.connector == load_parts(tmp_path / "pool.py").PoolConfig(side=4)
    kernel = opened.params["connector"]["project"]["kernel"]
    assert (kernel.shape, str(kernel.dtype)) == ((32, 32), "bfloat16")


def test_a_vision_encoder(tmp_path):
    """From weights under the names of the page's table."""
    make_data(tmp_path)
    page, weights = "add_a_vision_encoder.md", tmp_path / "plain_vit_weights"
    (tmp_path / "plain_vit.py").write_text(f"{blocks_of(page)[0]}\n")
    vision = load_parts(tmp_path / "plain_vit.py").PlainVitConfig(32, 16, 32, 64, 2, 2)
    random = np.random.default_rng(0)
    start = jax.tree.map(
        lambda x: random.normal(size=x.shape).astype(np.float32),
        abstract_params(around(vision))["vision"],
    )
    weights.mkdir()
    write_shards(to_source(vision.weight_rows(), {"vision": start}), weights)

    trained, _, converted = run_page(page, tmp_path, "plain_vit_weights/config.json")
    assert json.loads((weights / "config.json").read_text())["model_type"] == "plain_vit"
    assert "own (orbax)" in converted
    assert [line[:2] for line in words(trained)][2:5] == [
        ["connector", "media"],
        ["llm", "frozen"],
        ["vision", "media"],
    ]
    own = open_subtrees(tmp_path / "own", ["vision"])
    assert own.config.vision == vision
    moved = open_model(tmp_path / "runs" / "plain_vit" / "model")
    assert moved.config.vision == vision
    for path, value in flatten_dict(start).items():
        part = tuple(slice(0, size) for size in value.shape)
        np.testing.assert_array_equal(flatten_dict(own.params["vision"])[path][part], value)
        change = np.abs(flatten_dict(moved.params["vision"])[path][part] - value).max()
        assert 0 <= change < 2e-3, path
