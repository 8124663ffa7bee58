"""docs/add_a_language_model.md, as it is."""

import json

import jax
import numpy as np
import pytest
from docs_page import blocks_of, run_page
from safetensors.numpy import load_file
from small_parts import make_data

from owl_jax.checkpoint.hf_import import abstract_params
from owl_jax.checkpoint.model_directory import open_model
from owl_jax.checkpoint.safetensors_writer import write_shards
from owl_jax.checkpoint.tensors import to_source
from owl_jax.models.config import PARTS, OwlConfig
from owl_jax.models.own_parts import load_parts

pytestmark = pytest.mark.processes

PAGE = "add_a_language_model.md"


@pytest.fixture(autouse=True)
def _no_part_is_left():
    before = dict(PARTS["llm"])
    yield
    PARTS["llm"].clear()
    PARTS["llm"].update(before)


def test_a_language_model(tmp_path):
    make_data(tmp_path)
    weights = (tmp_path / "tokenizer").rename(tmp_path / "parallel_weights")
    (tmp_path / "parallel.py").write_text(f"{blocks_of(PAGE)[0]}\n")
    llm = load_parts(tmp_path / "parallel.py").ParallelConfig(
        *(340, 32, 64, 2, 4, 2), max_positions=256, head_width=12, tied=True
    )
    random = np.random.default_rng(0)
    start = jax.tree.map(
        lambda x: random.normal(0, 0.3, x.shape).astype(np.float32),
        abstract_params(OwlConfig(None, None, llm)),
    )
    write_shards(to_source(llm.weight_rows(), start), weights)

    alone, trained, asked, converted = run_page(PAGE, tmp_path, "parallel_weights/config.json")
    tokens = json.loads(alone.splitlines()[0])
    assert np.shape(tokens) == (1, 4)
    written, copied = (
        load_file(tmp_path / name / "model.safetensors") for name in ("parallel_weights", "copy")
    )
    assert written.keys() == copied.keys()
    assert not any("post_attention" in name or "lm_head" in name for name in written)
    for name, value in written.items():
        np.testing.assert_array_equal(copied[name], value)
    values = json.loads((tmp_path / "copy" / "config.json").read_text())
    assert values["architectures"] == ["ParallelForCausalLM"]
    assert (values["model_type"], values["head_dim"]) == ("parallel", 12)

    assert "lora" in trained
    assert asked.strip()
    assert "adapter (peft)" in converted
    moved = open_model(tmp_path / "runs" / "parallel" / "model")
    assert moved.config.llm.architecture == "parallel"
    assert moved.config.lora.targets == ("q_proj", "down_proj")
    kernel = moved.params["llm"]["layers"]["q_proj"]["kernel"]
    part = tuple(slice(0, size) for size in kernel.shape)
    np.testing.assert_array_equal(kernel[part], start["llm"]["layers"]["q_proj"]["kernel"])
    adapter = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    assert len(adapter) == 2 * 2 * 2  # layers, projections, factors
