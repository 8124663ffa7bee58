"""Descriptions of the model: to JSON and back."""

import json

import pytest

from owl_jax.models.config import BloomConfig, LoraConfig, OwlConfig, VisionConfig

CONFIGS = [
    OwlConfig(),
    OwlConfig(llm=BloomConfig(num_heads=6), vision=VisionConfig(temporal=True)),
    OwlConfig(lora=LoraConfig(rank=4, targets=("q_proj", "o_proj"))),
]


@pytest.mark.parametrize("config", CONFIGS)
def test_json_round_trip(config):
    read = OwlConfig.from_dict(json.loads(json.dumps(config.to_dict())))
    assert read == config
    assert hash(read) == hash(config)


def test_unknown_field_is_an_error():
    values = OwlConfig().to_dict()
    values["vision"]["colour"] = 3
    with pytest.raises(TypeError, match="colour"):
        OwlConfig.from_dict(values)


def test_defaults_are_the_released_model():
    config = OwlConfig()
    assert config.vision.num_patches == 256
    assert config.media_length == 65
    assert config.llm.head_dim == 128
    assert LoraConfig().scale == 4.0
