"""LLaVA-1.5 (arXiv 2310.03744): config.json and tensor names of transformers and of the authors.

Both files say model_type "llava". Transformers' directory (llava-hf/llava-1.5-7b-hf) holds the
whole model; versions 4 and 5 write different names. The authors' (liuhaotian/llava-v1.5-7b) holds
the language model and the connector, and names the directory of its vision tower.

Source: transformers, configuration_llava.py and modeling_llava.py; haotian-liu/LLaVA,
llava/model/llava_arch.py.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from msgspec import Struct

from owl_jax.errors import UserError, shown
from owl_jax.media.resizing import Resizing
from owl_jax.models.config import OwlConfig
from owl_jax.models.connectors.mlp import MlpConfig
from owl_jax.models.families.family import TOWER_CONFIG, Family
from owl_jax.models.hf_config import Source, special_ids_of
from owl_jax.models.language import read_language
from owl_jax.models.language.decoder import DecoderConfig
from owl_jax.models.language.llama import LlamaConfig
from owl_jax.models.lora import LoraConfig
from owl_jax.models.parts import VisionPart
from owl_jax.models.vision import read_vision
from owl_jax.models.vision.clip import ClipConfig
from owl_jax.models.vision.siglip import SiglipConfig
from owl_jax.models.weight_names import Row, with_prefix
from owl_jax.text.formats.vicuna import VICUNA_V1

# llava-1.5-7b: CLIP's features before its last layer, LLaMA 2.
LLAVA_7B = OwlConfig(
    ClipConfig(image_size=336, layer_norm_eps=1e-5).at_layer(-2, class_token=False),
    MlpConfig(),
    LlamaConfig(rms_norm_eps=1e-5, max_positions=4096),
    resizing=Resizing("pad"),
    conversation=VICUNA_V1.name,
)
# The published recipe for finetuning with LoRA (haotian-liu/LLaVA, finetune_lora.sh).
LLAVA_LORA = LoraConfig(rank=128, alpha=256, dropout=0.05, targets=LlamaConfig.PROJECTIONS)

_TOWER, _LANGUAGE, _CONNECTOR = "vision_tower.", "language_model.", "multi_modal_projector."
_ORIGINAL_TOWER = "model.vision_tower.vision_tower."

# Vicuna's vocabulary has 32,000 words, 32,064 with the tokens that transformers adds; Llama 3's
# 128,256.
_MOST_WORDS_OF_VICUNA = 33_000

_PROJECTORS = {"linear": 1, "mlp2x_gelu": 2}
_OUTPUTS_CLASS_TOKEN = {"default": False, "full": True}
_OUTPUTS_CLASS_TOKEN_ORIGINAL = {"patch": False, "cls_patch": True}


class _HfLlava(Struct, frozen=True):
    """LlavaConfig without its sections (transformers 4 and 5)."""

    vision_feature_layer: int | list[int] = -2
    vision_feature_select_strategy: str = "default"
    projector_hidden_act: str = "gelu"
    multimodal_projector_bias: bool = True


class _Original(Struct, frozen=True):
    """The keys that the authors add to LlamaConfig."""

    mm_projector_type: str = "linear"
    mm_vision_select_layer: int = -2
    mm_vision_select_feature: str = "patch"
    mm_use_im_start_end: bool = False
    mm_use_im_patch_token: bool = False
    image_aspect_ratio: str | None = None


def _read_config(source: Source, tensors: Collection[str]) -> OwlConfig:
    for name in ("text_config", "vision_config"):
        if not isinstance(source.values.get(name), dict):
            raise UserError(f"{source.path}: no {name}; expected the config of a LLaVA model")
    llava = source.read(_HfLlava)
    owner = "owl_jax's LLaVA"
    source.expect("projector_hidden_act", llava.projector_hidden_act, "gelu", owner)
    source.expect("multimodal_projector_bias", llava.multimodal_projector_bias, True, owner)
    text = source.section("text_config")
    values = {"model_type": "llama", **text.values}
    if source.values.get("tie_word_embeddings") is True:  # of the whole model, or of its text
        values["tie_word_embeddings"] = True
    llm = read_language(text.with_values(values))
    section = source.section("vision_config")
    vision = read_vision(section.with_values({"model_type": "clip_vision_model", **section.values}))
    strategy = llava.vision_feature_select_strategy
    with_class_token = _chosen(
        source, "vision_feature_select_strategy", strategy, _OUTPUTS_CLASS_TOKEN
    )
    vision = _at_layer(
        source, "vision_feature_layer", vision, llava.vision_feature_layer, with_class_token
    )
    if not with_class_token and not _has_class_token(vision):
        raise UserError(
            f"{source.path}: vision_feature_select_strategy is {strategy!r}, which drops the first "
            f"token, but {vision.architecture} has no class token; expected 'full'"
        )
    connector = MlpConfig(hidden_size=llm.hidden_size)
    is_vicuna = isinstance(llm, LlamaConfig) and llm.vocab_size < _MOST_WORDS_OF_VICUNA
    conversation = VICUNA_V1.name if is_vicuna else ""  # the directory's
    return OwlConfig(vision, connector, llm, conversation=conversation)


def _read_original(source: Source, tensors: Collection[str]) -> OwlConfig:
    llava = source.read(_Original)
    layers = _chosen(source, "mm_projector_type", llava.mm_projector_type, _PROJECTORS)
    for name in ("mm_use_im_start_end", "mm_use_im_patch_token"):
        source.expect(name, getattr(llava, name), False, "LLaVA-1.5")
    llm = read_language(source.with_values({**source.values, "model_type": "llama"}))
    # In a file of ours the tower has only the layers that are used.
    is_ours = "vision_config" in source.values
    layer = -1 if is_ours else llava.mm_vision_select_layer
    section = source.section("vision_config" if is_ours else TOWER_CONFIG)
    with_class_token = _chosen(
        source,
        "mm_vision_select_feature",
        llava.mm_vision_select_feature,
        _OUTPUTS_CLASS_TOKEN_ORIGINAL,
    )
    vision = _at_layer(
        source, "mm_vision_select_layer", read_vision(section), layer, with_class_token
    )
    # Without "pad", the authors' code uses the tower's image processor, which crops.
    kind: Any = "pad" if llava.image_aspect_ratio == "pad" else "crop"
    connector = MlpConfig(hidden_size=llm.hidden_size, num_layers=layers)
    resizing = Resizing(kind)
    return OwlConfig(vision, connector, llm, resizing=resizing, conversation=VICUNA_V1.name)


def _chosen(source: Source, name: str, found: str, known: Mapping[str, Any]) -> Any:
    if found not in known:
        raise UserError(f"{source.path}: {name} is {shown(found)}; expected {' or '.join(known)}")
    return known[found]


def _at_layer(
    source: Source, name: str, vision: VisionPart, layer: int | list[int], class_token: bool
) -> VisionPart:
    if not isinstance(layer, int):
        raise UserError(f"{source.path}: {name} is {shown(layer)}; expected one layer")
    try:
        return vision.at_layer(layer, class_token)
    except ValueError as error:
        raise UserError(f"{source.path}: {name}: {error}") from None


def _has_class_token(vision: VisionPart) -> bool:
    return bool(vision.at_layer(-1, class_token=True).num_prefix_tokens)


def _write_config(config: OwlConfig, dtype: str) -> dict[str, Any]:
    vision, llm = _parts(config)[0], config.llm
    drops = _has_class_token(vision) and not vision.num_prefix_tokens
    return {
        "architectures": ["LlavaForConditionalGeneration"],
        "model_type": "llava",
        "torch_dtype": dtype,
        "projector_hidden_act": "gelu",
        "multimodal_projector_bias": True,
        # The last layer, because layers after the one that is read are not kept.
        "vision_feature_layer": -1,
        "vision_feature_select_strategy": "default" if drops else "full",
        "image_seq_length": config.num_tokens("image"),
        "tie_word_embeddings": False,
        "text_config": {**llm.to_hf(), **special_ids_of(config.llm)},
        "vision_config": vision.to_hf(),
    }


def _parts(config: OwlConfig) -> tuple[ClipConfig | SiglipConfig, MlpConfig]:
    """The encoder and the connector of a model that fits."""
    vision, connector = config.vision, config.connector
    assert isinstance(vision, ClipConfig | SiglipConfig) and isinstance(connector, MlpConfig)
    return vision, connector


def _defaults(config: OwlConfig) -> dict[str, Any]:
    """For a model not read from such a file: an id that stands for pictures.

    transformers requires one inside the vocabulary, and text must not contain it (docs/weights.md).
    """
    return {"image_token_index": min(32000, config.llm.vocab_size - 1)}


def _write_original(config: OwlConfig, dtype: str) -> dict[str, Any]:
    vision, connector = _parts(config)
    names = {layers: name for name, layers in _PROJECTORS.items()}
    return {
        **config.llm.to_hf(),
        **special_ids_of(config.llm),
        "architectures": ["LlavaLlamaForCausalLM"],
        "model_type": "llava",
        "torch_dtype": dtype,
        "mm_projector_type": names[connector.num_layers],
        "mm_hidden_size": vision.hidden_size,
        "mm_vision_select_feature": "cls_patch" if vision.num_prefix_tokens else "patch",
        "image_aspect_ratio": "pad" if config.resizing.kind == "pad" else None,
        # The vision tower is in the same files; its description is ours, not the authors'.
        "unfreeze_mm_vision_tower": True,
        "vision_config": vision.to_hf(),
    }


def _defaults_original(config: OwlConfig) -> dict[str, Any]:
    """For the authors' code, which builds the tower from its own directory."""
    return {"mm_vision_tower": "openai/clip-vit-large-patch14-336", "mm_vision_select_layer": -2}


def _weight_rows(config: OwlConfig) -> list[Row]:
    vision, connector = _parts(config)
    return [
        *with_prefix(vision.weight_rows(), _TOWER),
        *connector.weight_rows(),
        *with_prefix(config.llm.weight_rows(), _LANGUAGE),
    ]


def _original_rows(config: OwlConfig) -> list[Row]:
    vision, connector = _parts(config)
    return [
        *with_prefix(vision.weight_rows(), _ORIGINAL_TOWER),
        *connector.original_weight_rows(),
        *config.llm.weight_rows(),
    ]


def _ignores(config: OwlConfig, tensor: str) -> bool:
    """True for unused tensors of the vision tower, such as layers after the one that is read."""
    for prefix in (_TOWER, f"model.{_TOWER}"):
        if tensor.startswith(prefix):
            return _parts(config)[0].ignores(tensor.removeprefix(prefix))
    return False


def _ignores_original(config: OwlConfig, tensor: str) -> bool:
    is_tower = tensor.startswith(_ORIGINAL_TOWER)
    return is_tower and _parts(config)[0].ignores(tensor.removeprefix(_ORIGINAL_TOWER))


def _fits(config: OwlConfig) -> bool:
    vision, connector = config.vision, config.connector
    return (
        isinstance(vision, ClipConfig | SiglipConfig)
        and not vision.post_norm
        and isinstance(connector, MlpConfig)
        and connector.num_layers == 2
        and connector.hidden_size == config.llm.hidden_size
        # transformers' LLaVA cannot hold BLOOM, whose embedding has another name.
        and isinstance(config.llm, DecoderConfig)
        and bool(config.llm.HF_CLASS)
        and not (isinstance(vision, ClipConfig) and vision.temporal)
    )


def _fits_original(config: OwlConfig) -> bool:
    vision, connector = config.vision, config.connector
    return (
        isinstance(vision, ClipConfig)
        and not vision.post_norm
        and isinstance(connector, MlpConfig)
        and connector.num_layers in _PROJECTORS.values()
        and connector.hidden_size == config.llm.hidden_size
        and isinstance(config.llm, LlamaConfig)
        and bool(config.llm.HF_CLASS)
        and not vision.temporal
    )


LLAVA = Family(
    "llava",
    _read_config,
    _write_config,
    _weight_rows,
    _fits,
    mark=f"{_CONNECTOR}linear_1.weight",
    language_prefix=_LANGUAGE,
    reads_resizing=True,
    ignores=_ignores,
    defaults=_defaults,
    conversation=VICUNA_V1.name,
    # Keys: transformers 4 up to 4.51. Values: later versions.
    spellings={
        f"{_LANGUAGE}model.": (f"model.{_LANGUAGE}",),
        f"{_LANGUAGE}lm_head.": ("lm_head.",),
        f"{_TOWER}vision_model.": (f"model.{_TOWER}vision_model.", _TOWER, f"model.{_TOWER}"),
        _CONNECTOR: (f"model.{_CONNECTOR}",),
    },
)

LLAVA_ORIGINAL = Family(
    "llava_llama",
    _read_original,
    _write_original,
    _original_rows,
    _fits_original,
    mark="model.mm_projector.0.weight",
    tower="mm_vision_tower",
    tower_prefix=_ORIGINAL_TOWER,
    defaults=_defaults_original,
    ignores=_ignores_original,
    conversation=VICUNA_V1.name,
)
