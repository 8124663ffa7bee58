"""mPLUG-Owl2 (arXiv 2311.04257): its released variant, config.json and tensor names.

Source: X-PLUG/mPLUG-Owl, mPLUG-Owl2's configuration_mplug_owl2.py and modeling_mplug_owl2.py.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from msgspec import Struct

from owl_jax.errors import UserError
from owl_jax.models.config import OwlConfig
from owl_jax.models.connectors.owl2_abstractor import Owl2AbstractorConfig
from owl_jax.models.families.family import Family
from owl_jax.models.families.mplug_owl import VISION_TYPE, vision_rows
from owl_jax.models.hf_config import Source, special_ids_of
from owl_jax.models.language.owl2 import Owl2LlamaConfig
from owl_jax.models.vision.clip import ClipConfig
from owl_jax.models.weight_names import Row, with_prefix
from owl_jax.text.formats import OWL2

# MAGAer13/mplug-owl2-llama2-7b: images of 448 x 448 pixels, LLaMA 2.
MPLUG_OWL2_7B = OwlConfig(
    ClipConfig(image_size=448),
    Owl2AbstractorConfig(),
    Owl2LlamaConfig(rms_norm_eps=1e-5, max_positions=4096),
    conversation=OWL2.name,
)

_MODEL_TYPE = "mplug_owl2"
_MODEL = "model."  # prefix of every tensor name except the head's
_VISUAL = "visual_config"


class _HfVision(Struct, frozen=True):
    """Keys of visual_config.visual_model that mPLUG-Owl lacks or that have another default."""

    image_size: int = 448
    use_post_layernorm: bool = True
    use_cls_token: bool = True


def _read_config(source: Source, tensors: Collection[str]) -> OwlConfig:
    owner = "owl_jax's mPLUG-Owl2"
    visual = source.section(_VISUAL)
    vision, connector = (_section(visual, name) for name in ("visual_model", "visual_abstractor"))
    for part in (source, vision, connector):
        part.refuse_other_computation()
    found = vision.read(_HfVision)
    for name in ("use_post_layernorm", "use_cls_token"):
        vision.expect(vision.key(name), getattr(found, name), True, owner)
    # mPLUG-Owl's default is half of mPLUG-Owl2's.
    values = {"image_size": found.image_size, **vision.values}
    encoder = ClipConfig.from_owl(vision.with_values(values), temporal=False)
    tied = source.values.get("tie_word_embeddings", False)
    source.expect("tie_word_embeddings", tied, False, owner)
    return OwlConfig(
        encoder,
        Owl2AbstractorConfig.from_hf(connector, encoder),
        Owl2LlamaConfig.from_hf(source),
        conversation=OWL2.name,
    )


def _section(visual: Source, name: str) -> Source:
    if not isinstance(visual.values.get(name), dict):
        raise UserError(
            f"{visual.path}: no {visual.key(name)}; expected the config of an mPLUG-Owl2 model"
        )
    return Source(visual.path, visual.values[name], visual.key(name))


def _write_config(config: OwlConfig, dtype: str) -> dict[str, Any]:
    vision, connector, llm = config.vision, config.connector, config.llm
    assert isinstance(vision, ClipConfig)
    assert isinstance(connector, Owl2AbstractorConfig)
    return {
        **llm.to_hf(),
        **special_ids_of(llm),
        "architectures": ["MPLUGOwl2LlamaForCausalLM"],
        "model_type": _MODEL_TYPE,
        "torch_dtype": dtype,
        _VISUAL: {
            "visual_model": {
                **vision.to_hf(),
                "model_type": VISION_TYPE,
                "use_post_layernorm": True,
                "use_cls_token": True,
            },
            "visual_abstractor": connector.to_hf(vision),
        },
    }


def _weight_rows(config: OwlConfig) -> list[Row]:
    assert isinstance(config.connector, Owl2AbstractorConfig)
    visual = [*vision_rows(temporal=False), *config.connector.weight_rows()]
    return [*with_prefix(visual, _MODEL), *config.llm.weight_rows()]


def _fits(config: OwlConfig) -> bool:
    return (
        isinstance(config.vision, ClipConfig)
        and config.vision.is_whole
        and not config.vision.temporal
        and isinstance(config.connector, Owl2AbstractorConfig)
        and isinstance(config.llm, Owl2LlamaConfig)
        and not config.llm.tied
    )


MPLUG_OWL2 = Family(
    _MODEL_TYPE,
    _read_config,
    _write_config,
    _weight_rows,
    _fits,
    mark=f"{_MODEL}visual_abstractor.query_embeds",
    conversation=OWL2.name,
    peft_base={
        "base_model_class": "MPLUGOwl2LlamaForCausalLM",
        "parent_library": "mplug_owl2.model.modeling_mplug_owl2",
    },
)
