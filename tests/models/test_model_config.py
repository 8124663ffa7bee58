"""Model configs: to JSON and back."""

import dataclasses
import json

import pytest

from owl_jax.errors import UserError
from owl_jax.models.config import OwlConfig, id_problems
from owl_jax.models.connectors.mlp import MlpConfig
from owl_jax.models.families.mplug_owl import variant
from owl_jax.models.language.bloom import BloomConfig
from owl_jax.models.language.llama import LlamaConfig
from owl_jax.models.lora import LoraConfig
from owl_jax.models.vision.clip import ClipConfig
from owl_jax.text.formats import FORMATS
from owl_jax.training.config import base_config, read_model

RELEASED = variant("llama")
CONFIGS = [
    RELEASED,
    dataclasses.replace(RELEASED, llm=BloomConfig(num_heads=6), vision=ClipConfig(temporal=True)),
    dataclasses.replace(RELEASED, lora=LoraConfig(rank=4, targets=("q_proj", "o_proj"))),
    dataclasses.replace(RELEASED, vision=None, connector=None),
    dataclasses.replace(RELEASED, conversation="chat_template"),
    dataclasses.replace(RELEASED, conversation=dataclasses.replace(FORMATS["chatml"], name="mine")),
]


@pytest.mark.parametrize("config", CONFIGS)
def test_json_round_trip(config):
    read = OwlConfig.from_dict(json.loads(json.dumps(config.to_dict())))
    assert read == config
    assert hash(read) == hash(config)


def test_a_config_without_a_conversation_format_is_owls():
    values = RELEASED.to_dict()
    assert values.pop("conversation") == "owl"
    assert OwlConfig.from_dict(values) == RELEASED


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (
            "alpaca",
            "conversation is 'alpaca'; expected owl, owl2, vicuna_v1, plain, llama2, chatml, ",
        ),
        (3, "conversation is 3; expected a string"),
        (None, "conversation is None; expected a string"),
        ({"name": "mine"}, "no value for 'conversation.user'"),
        ({"name": "a b", "user": ["", ""], "answer_mark": ""}, "conversation.name is 'a b'"),
        ({"name": "owl", "user": ["", ""], "answer_mark": ""}, "the name of a built-in format"),
        ({"name": "a", "user": ["", ""], "answer_mark": "", "x": 1}, "unknown key"),
    ],
)
def test_wrong_conversation_formats_are_refused(value, message):
    with pytest.raises(TypeError, match=message):
        OwlConfig.from_dict({**RELEASED.to_dict(), "conversation": value})


def test_unknown_field_is_an_error():
    values = RELEASED.to_dict()
    values["vision"]["colour"] = 3
    with pytest.raises(TypeError, match="colour"):
        OwlConfig.from_dict(values)


def test_defaults_are_the_released_model():
    config = RELEASED
    assert config.vision.num_patches == 256
    assert config.num_tokens("image") == 65
    assert config.llm.head_dim == 128
    assert LoraConfig().scale == 4.0


NONSENSE = ("48", 48.5, None, -1, True, 10**9, [], {}, float("nan"), float("inf"), 10**400)


@pytest.mark.parametrize(
    ("part", "field"),
    [
        ("vision", "num_layers"),
        ("vision", "layer_norm_eps"),
        ("connector", "num_query_tokens"),
        ("llm", "vocab_size"),
        ("llm", "eos_token_id"),
        ("llm", "rms_norm_eps"),
        ("lora", "rank"),
        ("lora", "alpha"),
        ("lora", "dropout"),
        ("lora", "targets"),
    ],
)
def test_invalid_values_name_their_field(part, field):
    for value in NONSENSE:
        if (field, value) in (("targets", []), ("alpha", 48.5)):
            continue
        values = dataclasses.replace(RELEASED, lora=LoraConfig()).to_dict()
        values[part][field] = value
        with pytest.raises(TypeError, match=rf"^{part}\.{field} is .*; (expected|number out)"):
            OwlConfig.from_dict(values)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([], "the model is list; expected a JSON object"),
        ({"vision": 3}, "no value for 'vision'"),
        ({"vision": {}, "connector": {}, "llm": {"architecture": ["llama"]}}, r"is \['llama'\]"),
        ({"vision": {}, "connector": {}, "llm": {}, "lora": [3]}, "lora is .*a JSON object"),
        ({"vision": {}, "connector": {}, "llm": {}, "heads": 3}, "unknown key 'heads'"),
        (
            {"vision": {}, "connector": {}, "llm": {}, "resizing": {"kind": "padd"}},
            "^resizing.kind is 'padd'; expected squash, pad, crop$",
        ),
    ],
)
def test_invalid_configs_are_refused(values, message):
    with pytest.raises(TypeError, match=message):
        OwlConfig.from_dict(values)


def test_problems_of_sizes_and_ids():
    odd = dataclasses.replace(
        RELEASED, llm=LlamaConfig(hidden_size=21, num_heads=7, num_kv_heads=7)
    )
    assert "is odd: rotary positions rotate pairs of channels" in odd.problems()[0]
    vast = dataclasses.replace(RELEASED, llm=LlamaConfig(hidden_size=1 << 20, num_layers=1000))
    assert "parameters; expected at most 2e+12" in vast.problems()[0]
    assert RELEASED.problems() == id_problems(LlamaConfig()) == []
    assert id_problems(LlamaConfig(vocab_size=2)) == [
        "eos_token_id is 2; expected an id below 2, the vocabulary size"
    ]


@pytest.mark.parametrize("parts", [{"connector": MlpConfig()}, {"vision": None, "connector": None}])
def test_only_an_abstractor_has_query_tokens(parts):
    assert RELEASED.num_query_tokens == 64
    message = r'no num_query_tokens: only an abstractor .*; num_tokens\("image"\) gives'
    with pytest.raises(UserError, match=message):
        _ = dataclasses.replace(RELEASED, **parts).num_query_tokens


def test_a_language_model_alone():
    alone = dataclasses.replace(RELEASED, vision=None, connector=None)
    assert alone.text_only and not RELEASED.text_only
    assert [*alone.parts] == ["llm"] and [*RELEASED.parts] == ["vision", "connector", "llm"]
    assert (alone.image_size, alone.media_lengths(), alone.problems()) == (0, (0, 0), [])
    with pytest.raises(UserError, match="has no vision encoder: it takes no images"):
        alone.num_tokens("image")
    half = dataclasses.replace(RELEASED, connector=None)
    assert half.problems() == [
        "it has no connector; expected both vision and connector, or neither"
    ]
    with pytest.raises(UserError, match="no vision encoder and no connector; training needs both"):
        read_model(base_config(alone))
