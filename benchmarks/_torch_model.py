"""The same model and training step in PyTorch, with transformers and PEFT.

CLIP's vision tower and LLaMA are classes of transformers, the adapter is PEFT's. transformers has
no mPLUG-Owl, so the abstractor is implemented here, with fused attention. The step is that of a
Hugging Face trainer: autocast for bfloat16 weights, gradient clipping, fused AdamW.

Only this file imports torch, and only the benchmarks that compare with PyTorch import this file.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

import numpy as np
import peft
import torch
import transformers
from torch import nn
from torch.nn import functional as F

from owl_jax.checkpoint.tensors import to_source
from owl_jax.data.batch import Batch
from owl_jax.models.config import OwlConfig
from owl_jax.models.connectors.abstractor import ATTENTION_NORM_EPS, AbstractorConfig
from owl_jax.models.language.llama import LlamaConfig
from owl_jax.models.vision.clip import ClipConfig
from owl_jax.models.weight_names import Row

Inputs = Mapping[str, torch.Tensor]


class AbstractorLayer(nn.Module):
    """AbstractorBlock (models/connectors/abstractor.py), with the same parameter names."""

    def __init__(self, config: AbstractorConfig):
        super().__init__()
        D, F = config.hidden_size, config.mlp_size
        self.heads = config.num_heads
        self.query_norm, self.image_norm, self.mlp_norm = (
            nn.LayerNorm(D, eps=ATTENTION_NORM_EPS) for _ in range(3)
        )
        self.query, self.key, self.value, self.out = (nn.Linear(D, D) for _ in range(4))
        self.gate, self.up, self.down = nn.Linear(D, F), nn.Linear(D, F), nn.Linear(F, D)
        self.inner_norm = nn.LayerNorm(F, eps=config.layer_norm_eps)

    def forward(self, x: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
        x = self.query_norm(x)
        seen = torch.cat([x, self.image_norm(image)], dim=1)

        def split(y: torch.Tensor) -> torch.Tensor:
            return y.unflatten(-1, (self.heads, -1)).transpose(1, 2)

        q, k, v = split(self.query(x)), split(self.key(seen)), split(self.value(seen))
        x = x + self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        y = self.mlp_norm(x)
        return x + self.down(self.inner_norm(F.silu(self.gate(y)) * self.up(y)))


class Abstractor(nn.Module):
    """[N, S, D] image tokens -> [N, Q + 1, language width]."""

    def __init__(self, config: AbstractorConfig, language_width: int):
        super().__init__()
        D = config.hidden_size
        self.queries = nn.Parameter(0.02 * torch.randn(config.num_query_tokens, D))
        self.layers = nn.ModuleList(AbstractorLayer(config) for _ in range(config.num_layers))
        self.project = nn.Linear(D, language_width)
        self.end = nn.Parameter(0.02 * torch.randn(language_width))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = self.queries.expand(len(image), -1, -1)
        for layer in self.layers:
            x = layer(x, image)
        y = self.project(x)
        return torch.cat([y, self.end.to(y.dtype).expand(len(image), 1, -1)], dim=1)


class TorchOwl(nn.Module):
    """mPLUG-Owl with a LLaMA, on torch's default device and in its default dtype."""

    def __init__(self, config: OwlConfig):
        super().__init__()
        assert isinstance(config.llm, LlamaConfig)
        self.vision = transformers.CLIPVisionModel(_clip_config(config.vision))
        self.pixel_mean, self.pixel_std = config.vision.pixel_mean, config.vision.pixel_std
        self.connector = Abstractor(config.connector, config.llm.hidden_size)
        self.llm = transformers.LlamaForCausalLM(_llama_config(config.llm))
        if config.lora is not None:
            adapter = peft.LoraConfig(
                r=config.lora.rank,
                lora_alpha=config.lora.alpha,
                lora_dropout=config.lora.dropout,
                target_modules=list(config.lora.targets),
                task_type="CAUSAL_LM",
            )
            self.llm = peft.get_peft_model(self.llm, adapter)

    def train_only(self, subtrees: Collection[str]) -> list[nn.Parameter]:
        """Freezes all but these subtrees of our parameters; trainable ones become float32."""
        for name, parameter in self.named_parameters():
            subtree = "lora" if "lora_" in name else name.partition(".")[0]
            parameter.requires_grad_(subtree in subtrees)
            if parameter.requires_grad:
                parameter.data = parameter.data.float()
        return [parameter for parameter in self.parameters() if parameter.requires_grad]

    def forward(self, inputs: Inputs) -> torch.Tensor:
        """The mean loss of a batch of `batch_inputs`."""
        embeddings = self.llm.get_input_embeddings()(inputs["input_ids"])
        if len(inputs["pixels"]):
            media = self.encode(inputs["pixels"]).to(embeddings.dtype)
            embeddings = embeddings.masked_scatter(inputs["is_media"][..., None], media)
        return self.llm(
            inputs_embeds=embeddings,
            attention_mask=inputs["attention_mask"],
            labels=inputs["labels"],
            shift_labels=inputs["labels"],
            use_cache=False,
        ).loss

    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        """uint8[N, S, S, 3] -> [N, Q + 1, language width]."""
        pixels = pixels.to(self.vision.dtype) / 255.0
        pixels = (pixels - pixels.new_tensor(self.pixel_mean)) / pixels.new_tensor(self.pixel_std)
        image = self.vision(pixel_values=pixels.permute(0, 3, 1, 2)).last_hidden_state
        # CLIP's own forward normalises only the class token.
        return self.connector(self.vision.post_layernorm(image))

    def recompute(self) -> None:
        """Enables gradient checkpointing of every layer in the backward pass."""
        for tower in (self.vision, self.llm):
            if tower is self.llm or tower.post_layernorm.weight.requires_grad:
                tower.gradient_checkpointing_enable({"use_reentrant": False})


def make_torch_step(
    owl: TorchOwl, trained: Collection[str], learning_rate: float, autocast: bool = False
) -> Callable[[Inputs], torch.Tensor]:
    """A step: inputs -> loss before the update. AdamW without decay, gradient norm clipped to 1."""
    parameters = owl.train_only(trained)
    optimizer = torch.optim.AdamW(parameters, learning_rate, weight_decay=0.0, fused=True)
    device = parameters[0].device.type
    owl.train()

    def step(inputs: Inputs) -> torch.Tensor:
        with torch.autocast(device, torch.bfloat16, enabled=autocast):
            loss = owl(inputs)
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        return loss.detach()

    return step


def batch_inputs(batch: Batch, media_length: int, device: str = "cpu") -> Inputs:
    """Converts a batch with one conversation a sequence to the output of a typical collator.

    Empty image slots are left out. media_length: tokens of an image.
    """
    counts = (batch.media_index.max(axis=1) + 1) // media_length
    pixels = [images[:count] for images, count in zip(batch.images, counts, strict=True)]
    arrays = {
        "input_ids": batch.input_ids.astype(np.int64),
        "attention_mask": (batch.segment_ids > 0).astype(np.int64),
        "labels": np.where(batch.loss_mask > 0, batch.targets, -100).astype(np.int64),
        "is_media": batch.media_index >= 0,
        "pixels": np.concatenate(pixels),
    }
    return {name: torch.from_numpy(value).to(device) for name, value in arrays.items()}


@torch.no_grad()
def copy_weights(owl: TorchOwl, config: OwlConfig, params: Mapping[str, Any]) -> None:
    """Copies our parameters (NumPy arrays) to the torch model."""
    layers = params["vision"]["layers"]
    separate = {
        f"{name}_proj": {key: value[..., i, :] for key, value in layers["qkv"].items()}
        for i, name in enumerate("qkv")
    }
    vision = {"vision": {**params["vision"], "layers": {**layers, **separate}}}
    rows = [_unfused(row) for row in config.vision.weight_rows()]
    for tensor in to_source(rows, vision):
        _set(owl.vision, tensor.name.removeprefix("vision_model."), tensor.read())
    llama = owl.llm if config.lora is None else owl.llm.get_base_model()
    for tensor in to_source(config.llm.weight_rows(), params):
        _set(llama, tensor.name, tensor.read())
    _copy(owl.connector, params["connector"])
    for name, factors in params.get("lora", {}).get("layers", {}).items():
        for i, layer in enumerate(llama.model.layers):
            adapted = layer.self_attn.get_submodule(name)
            for factor, linear in (("a", adapted.lora_A), ("b", adapted.lora_B)):
                _copy(linear["default"], {"kernel": factors[factor]}, i)


def _unfused(row: Row) -> Row:
    """A row of CLIP's weight table with separate query, key and value."""
    name = row.source.split(".")[-2]
    return Row(row.source, row.target.replace("/qkv/", f"/{name}/"), row.transform)


def _set(module: nn.Module, name: str, value: np.ndarray) -> None:
    path, _, last = name.rpartition(".")
    owner = module.get_submodule(path)
    owner = getattr(owner, "base_layer", owner)  # PEFT wraps adapted layers
    getattr(owner, last).copy_(torch.from_numpy(value.copy()).reshape(getattr(owner, last).shape))


def _copy(module: nn.Module, tree: Mapping[str, Any], layer: int | None = None) -> None:
    """Copies a subtree into modules of the same names."""

    def tensor(name: str) -> torch.Tensor:
        return torch.from_numpy(np.array(tree[name] if layer is None else tree[name][layer]))

    if isinstance(module, nn.Linear):
        module.weight.copy_(tensor("kernel").reshape(module.in_features, -1).T)
        if module.bias is not None:
            module.bias.copy_(tensor("bias").flatten())
    elif isinstance(module, nn.LayerNorm):
        module.weight.copy_(tensor("scale"))
        module.bias.copy_(tensor("bias"))
    elif isinstance(module, nn.ModuleList):
        for i, child in enumerate(module):
            _copy(child, tree, i)
    else:
        for name, child in module.named_children():
            _copy(child, tree[name], layer)
        for name, parameter in module.named_parameters(recurse=False):
            parameter.copy_(tensor(name))


def _clip_config(config: ClipConfig) -> transformers.CLIPVisionConfig:
    return transformers.CLIPVisionConfig(
        image_size=config.image_size,
        patch_size=config.patch_size,
        hidden_size=config.hidden_size,
        intermediate_size=config.intermediate_size,
        num_hidden_layers=config.num_layers,
        num_attention_heads=config.num_heads,
        layer_norm_eps=config.layer_norm_eps,
    )


def _llama_config(config: LlamaConfig) -> transformers.LlamaConfig:
    return transformers.LlamaConfig(
        vocab_size=config.vocab_size,
        hidden_size=config.hidden_size,
        intermediate_size=config.intermediate_size,
        num_hidden_layers=config.num_layers,
        num_attention_heads=config.num_heads,
        num_key_value_heads=config.num_kv_heads,
        rms_norm_eps=config.rms_norm_eps,
        rope_theta=config.rope_theta,
        max_position_embeddings=config.max_positions,
    )
