"""mPLUG-Owl2's modality-adaptive LLaMA (arXiv 2311.04257, section 3.2).

Each layer has a second set of norms and of key and value projections for visual tokens. Queries,
the output projection, the MLP, the final norm and the head are shared.

Letters: B batch, L tokens, W vectors of a sequence's media slots, D width, G key heads, K head
width.

Cost: `visual_k_proj` and `visual_v_proj` multiply only the W vectors of the slots, a static number;
the other projections multiply all L tokens. With one image in 2,048 tokens this is 0.5 % more work
than LLaMA; both sets of projections for all tokens would be 16 % more (docs/benchmarks.md). The two
norms share their statistics, and the compiler selects the scale in the same loop.

Source: X-PLUG/mPLUG-Owl, mPLUG-Owl2's modeling_llama2.py and multiway.py.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import flax.linen as nn
import jax

from owl_jax.models.compute import Compute
from owl_jax.models.language.decoder import Decoder, DecoderBlock
from owl_jax.models.language.llama import LlamaConfig
from owl_jax.models.lora import LoraConfig
from owl_jax.models.modality import Modality
from owl_jax.models.parts import Path
from owl_jax.models.weight_names import Row

_VISUAL = "visual_"  # prefix of the modules for visual tokens
_ADAPTIVE = ("attention_norm", "mlp_norm", "k_proj", "v_proj")  # modules that exist twice


@dataclass(frozen=True)
class Owl2LlamaConfig(LlamaConfig):
    """LLaMA with a second set of norms, keys and values for visual tokens."""

    HF_CLASS: ClassVar = ""
    USES_MODALITY: ClassVar = True
    EXTENDS: ClassVar = "llama"
    PROJECTIONS: ClassVar[tuple[str, ...]] = (
        *LlamaConfig.PROJECTIONS,
        f"{_VISUAL}k_proj",
        f"{_VISUAL}v_proj",
    )

    architecture: Literal["owl2_llama"] = "owl2_llama"  # type: ignore[assignment]

    def build(self, compute: Compute, lora: LoraConfig | None) -> Owl2Llama:
        return Owl2Llama(self, compute, lora)

    def num_parameters(self) -> float:
        keys = 2.0 * self.hidden_size * self.num_kv_heads * self.head_dim
        return super().num_parameters() + self.num_layers * keys

    def tokens_through(self, path: Path, length: int, media_tokens: int) -> int:
        """Each token goes through one key and one value projection."""
        visual = min(media_tokens, length)
        if _is_visual(path):
            return visual
        return length - visual if _visual(path) is not None else length

    def extended(self, llm: Mapping[str, Any]) -> dict[str, Any]:
        """The visual weights start as copies of LLaMA's."""
        layers = llm["layers"]
        visual = {_VISUAL + name: layers[name] for name in _ADAPTIVE if name in layers}
        return {**llm, "layers": {**layers, **visual}}

    def weight_rows(self) -> list[Row]:
        """MPLUGOwl2LlamaForCausalLM's names: `multiway.0` for text, `multiway.1` for pictures."""
        rows = []
        for row in super().weight_rows():
            target = _visual(tuple(row.target.split("/")))
            if target is None:
                rows.append(row)
                continue
            module, _, kind = row.source.rpartition(".")
            for number, name in enumerate((row.target, "/".join(target))):
                source = f"{module}.multiway.{number}.{kind}"
                rows.append(dataclasses.replace(row, source=source, target=name))
        return rows


def _visual(path: Path) -> Path | None:
    """The path of the same parameter for visual tokens; None if there is none."""
    for i, name in enumerate(path):
        if name in _ADAPTIVE:
            return (*path[:i], _VISUAL + name, *path[i + 1 :])
    return None


def _is_visual(path: Path) -> bool:
    return any(name.startswith(_VISUAL) for name in path)


class Owl2Llama(Decoder):
    """LLaMA with separate weights for visual tokens."""

    @nn.nowrap
    def block(self) -> type[DecoderBlock]:
        return Owl2LlamaBlock


class Owl2LlamaBlock(DecoderBlock):
    """LLaMA's decoder layer with separate norms, keys and values for visual tokens."""

    @nn.nowrap
    def norm(self, name: str, x: jax.Array, modality: Modality | None) -> jax.Array:
        text = super().norm(name, x, None)
        if modality is None:
            return text
        return modality.select(super().norm(_VISUAL + name, x, None), text)

    @nn.nowrap
    def key_value(
        self,
        project: Callable[[str, jax.Array], jax.Array],
        y: jax.Array,
        modality: Modality | None,
    ) -> tuple[jax.Array, jax.Array]:
        text = super().key_value(project, y, None)
        if modality is None:
            return text
        visual = super().key_value(
            lambda name, y: project(_VISUAL + name, y), modality.take(y), None
        )
        k, v = (modality.put(x, other) for x, other in zip(text, visual, strict=True))
        return k, v
