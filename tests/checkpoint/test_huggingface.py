"""config.json of the released directories and of the parts: read, written back, refused."""

import dataclasses
import json

import directories
import golden
import pytest
from directories import BLOOM, LLAMA, VIDEO

from owl_jax.checkpoint.huggingface import (
    read_config,
    read_language_config,
    read_vision_config,
    write_config,
)
from owl_jax.errors import UserError
from owl_jax.models.connectors.abstractor import AbstractorConfig, mlp_size
from owl_jax.models.families.mplug_owl import variant
from owl_jax.models.language.bloom import BloomConfig
from owl_jax.models.language.llama import LlamaConfig
from owl_jax.models.vision.clip import ClipConfig

TEMPORAL = ["temporal_query_tokens"]  # what tells the video release
CASES = (golden.LLAMA, golden.BLOOM, golden.BLOOM_6, golden.VIDEO)


@pytest.mark.parametrize("case", CASES)
def test_config_is_read_as_it_was_written(case, tmp_path):
    config = golden.model(case)[0]
    write_config(config, tmp_path, "float32")
    assert read_config(tmp_path, TEMPORAL * config.vision.temporal) == config


@pytest.mark.parametrize("directory", [LLAMA, BLOOM, VIDEO], ids=lambda path: path.name)
def test_written_config_keeps_what_the_source_says_more(directory, tmp_path):
    source = directories.config(directory)
    source["text_config"]["_attn"] = {"kernel": "fast"}
    config = golden.model(directory.name)[0]
    llm = dataclasses.replace(config.llm, vocab_size=130)
    write_config(dataclasses.replace(config, llm=llm), tmp_path, "bfloat16", source)
    written = directories.config(tmp_path)
    source["torch_dtype"], source["text_config"]["vocab_size"] = "bfloat16", 130
    # The width of the video release's MLP may be written in several ways.
    for values in (source, written):
        values["visual_abstractor_config"].pop("intermediate_size")
    _assert_kept(source, written)


def _assert_kept(source, written, where=""):
    for key, value in source.items():
        if isinstance(value, dict):
            _assert_kept(value, written[key], f"{where}{key}.")
        else:
            assert written[key] == value, f"{where}{key}"


@pytest.mark.parametrize(
    ("intermediate", "temporal", "width"),
    [(2816, False, 2816), (64, False, 64), (2816, True, 2816), (64, True, 256), (4096, True, 2816)],
)
def test_width_of_the_abstractors_mlp(intermediate, temporal, width):
    assert mlp_size(intermediate, temporal) == width


@pytest.mark.parametrize("width", [256, 512, 768, 2816, 3072])
def test_video_widths_survive_the_formats_rounding(width, tmp_path):
    config = golden.model(golden.VIDEO)[0]
    abstractor = dataclasses.replace(config.connector, mlp_size=width)
    config = dataclasses.replace(config, connector=abstractor)
    write_config(config, tmp_path, "float32")
    assert read_config(tmp_path, TEMPORAL) == config


def test_video_width_that_the_format_cannot_say_is_an_error(tmp_path):
    config, _ = golden.model(golden.VIDEO)
    abstractor = dataclasses.replace(config.connector, mlp_size=300)
    with pytest.raises(UserError, match=r"mlp_size is 300.*multiples of 256"):
        write_config(dataclasses.replace(config, connector=abstractor), tmp_path, "float32")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, r"no config\.json"),
        ("not JSON", "not JSON"),
        ("[1, 2]", "expected a JSON object, found list"),
        ("{}", "no model_type; expected one of mplug-owl, mplug_owl2, llava"),
        ('{"vision_config": {}, "visual_abstractor_config": {}, "text_config": null}',
         "no text_config; expected"),
    ],
)  # fmt: skip
def test_unsuitable_config_is_an_error(text, message, tmp_path):
    if text is not None:
        (tmp_path / "config.json").write_text(text)
    with pytest.raises(UserError, match=message):
        read_config(tmp_path)


@pytest.mark.parametrize(
    ("section", "key", "value", "message"),
    [
        ("text_config", "model_type", "gpt2", "'gpt2'; expected one of llama, bloom, mis"),
        ("text_config", "model_type", None, "no value for 'text_config.model_type'"),
        ("text_config", "rope_scaling", {"type": "dynamic", "factor": 2}, "rope of type 'dynamic'"),
        ("text_config", "rope_scaling", {"type": "linear"}, r"no value for .*rope_scaling\.factor"),
        ("text_config", "rope_scaling", {"rope_type": "llama3"}, "rope of type 'llama3'"),
        (
            "text_config",
            "rope_scaling",
            {"type": "linear", "factor": 0},
            r"rope_scaling\.factor is 0",
        ),
        ("text_config", "rope_parameters", {"rope_type": "yarn"}, "type 'yarn'; expected default"),
        ("text_config", "layer_types", ["full_attention", "chunked"], "layer_types has 'chunked'"),
        (
            "text_config",
            "num_key_value_heads",
            3,
            "num_heads 4 is not a multiple of llm.num_kv_hea",
        ),
        ("text_config", "sliding_window", 512, "sliding_window = 512: not supported"),
        ("text_config", "attention_bias", True, "attention_bias = True: not supported"),
        ("text_config", "head_dim", 15, "llm.head_width 15 is odd: rotary positions rotate pairs"),
        ("text_config", "partial_rotary_factor", 0.5, "partial_rotary_factor is 0.5"),
        ("text_config", "quantization_config", {"bits": 4}, "quantization_config = .* not supp"),
        ("vision_config", "num_channels", 4, "num_channels is 4; the vision encoder has 3"),
        ("vision_config", "hidden_act", "gelu", "hidden_act is 'gelu'"),
    ],
)
def test_unsuitable_value_is_an_error(section, key, value, message, tmp_path):
    values = directories.config(LLAMA)
    values[section].pop(key, None)
    if value is not None:
        values[section][key] = value
    (tmp_path / "config.json").write_text(json.dumps(values))
    with pytest.raises(UserError, match=message):
        read_config(tmp_path)
    if section == "text_config" and key != "model_type":  # of a plain language model
        (tmp_path / "config.json").write_text(json.dumps(values[section]))
        with pytest.raises(UserError, match=message):
            read_language_config(tmp_path)


@pytest.mark.parametrize(
    "rope", [{}, {"rope_scaling": None}, {"rope_scaling": {"type": "default"}}]
)
def test_plain_llama(rope, tmp_path):
    values = {**directories.config(LLAMA)["text_config"], **rope, "rope_theta": 5e5}
    del values["bos_token_id"]
    (tmp_path / "config.json").write_text(json.dumps(values))
    expected = dataclasses.replace(golden.model(golden.LLAMA)[0].llm, rope_theta=5e5)
    assert read_language_config(tmp_path) == expected
    # As transformers 5 writes it.
    del values["rope_theta"]
    values["rope_parameters"] = {"rope_theta": 5e5, "rope_type": "default"}
    (tmp_path / "config.json").write_text(json.dumps(values))
    assert read_language_config(tmp_path) == expected


def test_blooms_first_release_says_its_sizes_by_other_names(tmp_path):
    values = {
        "model_type": "bloom",
        "vocab_size": 10,
        "n_embed": 8,
        "n_layer": 2,
        "num_attention_heads": 4,
        "layer_norm_epsilon": 1e-5,
        "eos_token_id": 7,
        "pad_token_id": None,
    }
    (tmp_path / "config.json").write_text(json.dumps(values))
    assert read_language_config(tmp_path) == BloomConfig(10, 8, 2, 4, 1e-5, eos_token_id=7)


def test_clip_alone_and_within_a_whole_model(tmp_path):
    values = {**directories.config(LLAMA)["vision_config"], "hidden_act": "quick_gelu"}
    values["model_type"] = "clip_vision_model"
    expected = golden.model(golden.LLAMA)[0].vision
    for written in (values, {"text_config": {}, "vision_config": values}):
        (tmp_path / "config.json").write_text(json.dumps(written))
        assert read_vision_config(tmp_path) == expected
    del values["layer_norm_eps"]  # CLIP's own default
    (tmp_path / "config.json").write_text(json.dumps(values))
    assert read_vision_config(tmp_path) == dataclasses.replace(expected, layer_norm_eps=1e-5)
    values["hidden_act"] = "gelu"
    (tmp_path / "config.json").write_text(json.dumps(values))
    with pytest.raises(UserError, match="hidden_act is 'gelu'; the vision encoder has quick_gelu"):
        read_vision_config(tmp_path)


def _read(read, directory, values):
    (directory / "config.json").write_text(json.dumps(values))
    return read(directory)


def test_what_transformers_4_omits_has_its_defaults(tmp_path):
    clip = ClipConfig(224, 32, 768, 3072, 12, 12, 1e-5)
    assert _read(read_vision_config, tmp_path, {"model_type": "clip_vision_model"}) == clip
    large = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16}
    expected = dataclasses.replace(clip, hidden_size=1024, num_layers=24, num_heads=16)
    for sections in (
        {"vision_config": large},
        {"vision_config": {}, "vision_config_dict": large},
        {"vision_config": None, "vision_config_dict": large},
    ):
        assert _read(read_vision_config, tmp_path, {"model_type": "clip", **sections}) == expected
    assert _read(read_language_config, tmp_path, {"model_type": "llama"}) == LlamaConfig()
    bloom = BloomConfig(250880, 64, 2, 8, 1e-5)
    assert _read(read_language_config, tmp_path, {"model_type": "bloom"}) == bloom
    owl = {
        "vision_config": {},
        "visual_abstractor_config": {},
        "text_config": {"model_type": "llama"},
    }
    released = dataclasses.replace(variant("llama"), connector=AbstractorConfig(mlp_size=4096))
    assert _read(read_config, tmp_path, owl) == released


def test_first_generation_llama(tmp_path):
    values = {
        "model_type": "llama",
        "max_sequence_length": 1024,
        "bos_token_id": 0,
        "eos_token_id": 1,
        "pad_token_id": -1,
    }
    expected = LlamaConfig(max_positions=1024, bos_token_id=0, eos_token_id=1)
    assert _read(read_language_config, tmp_path, values) == expected
    both = {**values, "max_position_embeddings": 2048}
    assert _read(read_language_config, tmp_path, both).max_positions == 2048


def test_names_of_one_size_that_disagree_are_an_error(tmp_path):
    values = {"model_type": "bloom", "n_embed": 128, "hidden_size": 256}
    with pytest.raises(
        UserError, match="hidden_size is 256 and n_embed is 128; both name the same"
    ):
        _read(read_language_config, tmp_path, values)


NONSENSE = ("48", 48.0, None, 0, -1, True, 10**9, [], {}, [48], 10**400, float("nan"))
SIZES = (
    ("text_config", "num_hidden_layers"),
    ("text_config", "hidden_size"),
    ("text_config", "vocab_size"),
    ("vision_config", "patch_size"),
    ("visual_abstractor_config", "num_attention_heads"),
    (None, "num_query_tokens"),
)


@pytest.mark.parametrize(("section", "key"), SIZES)
def test_size_that_is_none_is_told_in_one_line(section, key, tmp_path):
    for value in NONSENSE:
        values = directories.config(LLAMA)
        (values if section is None else values[section])[key] = value
        name = key if section is None else f"{section}.{key}"
        with pytest.raises(UserError) as caught:
            _read(read_config, tmp_path, values)
        message = str(caught.value)
        assert message.startswith(f"{tmp_path / 'config.json'}: {name} is "), value
        assert "; expected int" in message or "number out of range" in message
        assert len(message) < 300


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("rms_norm_eps", float("nan")),
        ("rms_norm_eps", 0),
        ("rms_norm_eps", float("inf")),
        ("rms_norm_eps", "1e-6"),
        ("rope_theta", 0),
        ("rope_theta", float("nan")),
        ("rope_parameters", {"rope_theta": -1.0}),
        ("rope_scaling", [1]),
        ("eos_token_id", []),
        ("eos_token_id", ["2"]),
        ("eos_token_id", -2),
        ("bos_token_id", -1),
        ("pad_token_id", -2),
        ("tie_word_embeddings", "no"),
    ],
)
def test_other_values_that_make_no_sense(key, value, tmp_path):
    values = {**directories.config(LLAMA)["text_config"], key: value}
    with pytest.raises(UserError, match=rf"config\.json: {key}.* is .*; expected"):
        _read(read_language_config, tmp_path, values)


def test_sizes_in_range_that_make_no_model(tmp_path):
    vast = {"hidden_size": 1 << 20, "intermediate_size": 1 << 20, "num_hidden_layers": 1000}
    with pytest.raises(UserError, match=r"e\+15 parameters; expected at most 2e\+12"):
        _read(read_language_config, tmp_path, {"model_type": "llama", **vast})
    with pytest.raises(
        UserError, match=r"image_size 224 is not a multiple of vision\.patch_size 300"
    ):
        _read(
            read_vision_config,
            tmp_path,
            {"model_type": "clip", "vision_config": {"patch_size": 300}},
        )
    with pytest.raises(UserError, match="no value for 'model_type'"):
        _read(read_language_config, tmp_path, {})


def test_key_that_is_there_twice_is_an_error(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "llama", "x": 1, "model_type": "bloom"}')
    with pytest.raises(UserError, match=r"not JSON .key 'model_type' twice in one object"):
        read_language_config(tmp_path)
