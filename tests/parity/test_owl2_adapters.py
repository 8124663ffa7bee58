"""PEFT reads our adapters of mPLUG-Owl2, with a key and a value projection for each modality."""

import dataclasses

import golden
import jax
import numpy as np
import peft
import pytest
import torch

from owl_jax.checkpoint.hf_import import abstract_params
from owl_jax.checkpoint.model_directory import save_model
from owl_jax.models.lora import LoraConfig

TARGETS = {
    "q_proj": "q_proj",
    "k_proj": "k_proj.multiway.0",
    "visual_k_proj": "k_proj.multiway.1",
    "visual_v_proj": "v_proj.multiway.1",
}


def projections(config):
    """Modules with the original's names and shapes."""
    D = config.llm.hidden_size
    linear = lambda: torch.nn.Linear(D, D, bias=False)  # noqa: E731

    def multiway():
        both = torch.nn.Module()
        both.multiway = torch.nn.ModuleList([linear(), linear()])
        return both

    def layer():
        attention = torch.nn.Module()
        attention.q_proj, attention.o_proj = linear(), linear()
        attention.k_proj, attention.v_proj = multiway(), multiway()
        block = torch.nn.Module()
        block.self_attn = attention
        return block

    whole, inner = torch.nn.Module(), torch.nn.Module()
    inner.layers = torch.nn.ModuleList([layer() for _ in range(config.llm.num_layers)])
    whole.model = inner
    return whole


@pytest.mark.filterwarnings("ignore")
def test_peft_adapts_the_same_modules_by_the_same_update(tmp_path):
    config, params = golden.model(golden.OWL2)
    lora = LoraConfig(rank=2, alpha=4.0, targets=tuple(TARGETS))
    config = dataclasses.replace(config, lora=lora)
    random = np.random.default_rng(0)
    factors = jax.tree.map(
        lambda x: random.normal(size=x.shape).astype(np.float32), abstract_params(config)["lora"]
    )
    save_model(tmp_path / "adapter", config, {**params, "lora": factors}, "peft")
    adapted = peft.PeftModel.from_pretrained(projections(config), tmp_path / "adapter")

    updates = {
        name.removeprefix("base_model.model."): module.get_delta_weight("default").detach().numpy()
        for name, module in adapted.named_modules()
        if hasattr(module, "get_delta_weight")
    }
    expected = {}
    for name, module in TARGETS.items():
        a, b = (factors["layers"][name][part] for part in "ab")
        for i in range(config.llm.num_layers):
            update = lora.scale * np.tensordot(a[i], b[i], axes=1)  # [D, H, K]
            expected[f"model.layers.{i}.self_attn.{module}"] = update.reshape(len(update), -1).T
    assert updates.keys() == expected.keys()
    for name, update in expected.items():
        np.testing.assert_allclose(updates[name], update, atol=1e-5)
