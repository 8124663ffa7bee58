"""The released directories: read as they are, written back equal, refused when damaged."""

import dataclasses
import json
import shutil

import golden
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from owl_jax.checkpoint.huggingface import (
    abstractor_mlp_size,
    read_config,
    read_params,
    write_config,
    write_params,
)
from owl_jax.checkpoint.table import BUFFERS, tied
from owl_jax.errors import UserError

CASES = (golden.LLAMA, golden.BLOOM, golden.BLOOM_6, golden.VIDEO)
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
HEAD = "language_model.lm_head.weight"
NORM = "language_model.model.norm.weight"


def _tensors(case):
    return load_file(golden.GOLDENS / case / WEIGHTS)


def _copy(case, target):
    """A copy of a recorded model that may be damaged."""
    for name in ("config.json", WEIGHTS):
        shutil.copyfile(golden.GOLDENS / case / name, target / name)
    return golden.model(case)[0]


def _shards(directory, **shards):
    """Writes `shards` and their index in place of the one file."""
    (directory / WEIGHTS).unlink()
    weight_map = {}
    for file, tensors in shards.items():
        save_file(tensors, directory / f"{file}.safetensors")
        weight_map |= dict.fromkeys(tensors, f"{file}.safetensors")
    (directory / INDEX).write_text(json.dumps({"weight_map": weight_map}))


@pytest.mark.parametrize("case", CASES)
def test_weights_are_written_as_they_were_read(case, tmp_path):
    config, params = golden.model(case)
    write_params(config, params, tmp_path)
    written, original = load_file(tmp_path / WEIGHTS), _tensors(case)
    left_out = {name for name in original if BUFFERS.fullmatch(name)} | tied(config).keys()
    assert written.keys() == original.keys() - left_out
    for name, value in written.items():
        assert value.dtype == original[name].dtype
        assert value.shape == original[name].shape
        assert value.tobytes() == original[name].tobytes(), name


def test_bfloat16_weights_keep_their_bits(tmp_path):
    config, params = golden.model(golden.LLAMA)
    narrow = jax.tree.map(lambda x: jnp.asarray(x, jnp.bfloat16), params)
    write_params(config, narrow, tmp_path)
    assert {str(value.dtype) for value in load_file(tmp_path / WEIGHTS).values()} == {"bfloat16"}
    read = read_params(config, tmp_path, jnp.bfloat16)
    jax.tree.map(np.testing.assert_array_equal, read, narrow)


@pytest.mark.parametrize("case", CASES)
def test_config_is_read_as_it_was_written(case, tmp_path):
    config = _copy(case, tmp_path)
    write_config(config, tmp_path, "float32")
    assert read_config(tmp_path) == config


@pytest.mark.parametrize(
    ("intermediate", "temporal", "width"),
    [(2816, False, 2816), (64, False, 64), (2816, True, 2816), (64, True, 256), (4096, True, 2816)],
)
def test_width_of_the_abstractors_mlp(intermediate, temporal, width):
    assert abstractor_mlp_size(intermediate, temporal) == width


@pytest.mark.parametrize("width", [256, 512, 768, 2816, 3072])
def test_video_widths_survive_the_formats_rounding(width, tmp_path):
    config = _copy(golden.VIDEO, tmp_path)
    abstractor = dataclasses.replace(config.abstractor, mlp_size=width)
    config = dataclasses.replace(config, abstractor=abstractor)
    write_config(config, tmp_path, "float32")
    assert read_config(tmp_path) == config


def test_video_width_that_the_format_cannot_say_is_an_error(tmp_path):
    config, _ = golden.model(golden.VIDEO)
    abstractor = dataclasses.replace(config.abstractor, mlp_size=300)
    with pytest.raises(UserError, match=r"mlp_size 300.*multiples of 256"):
        write_config(dataclasses.replace(config, abstractor=abstractor), tmp_path, "float32")


def test_shards_equal_one_file(tmp_path):
    config = _copy(golden.LLAMA, tmp_path)
    tensors = _tensors(golden.LLAMA)
    names = sorted(tensors)
    halves = names[:50], names[50:]
    _shards(
        tmp_path, **{f"part{i}": {n: tensors[n] for n in half} for i, half in enumerate(halves)}
    )
    assert read_config(tmp_path) == config
    jax.tree.map(
        np.testing.assert_array_equal,
        read_params(config, tmp_path, np.float32),
        golden.model(golden.LLAMA)[1],
    )


def test_tensors_that_do_not_fit_are_all_listed(tmp_path):
    config = _copy(golden.LLAMA, tmp_path)
    tensors = _tensors(golden.LLAMA)
    del tensors[NORM], tensors["query_tokens"]
    tensors["stranger"] = tensors["another.stranger"] = np.zeros(3, np.float32)
    tensors[HEAD] = tensors[HEAD].T.copy()
    tensors["abstractor.vit_eos"] = np.zeros((1, 1, 7), np.float32)
    save_file(tensors, tmp_path / WEIGHTS)
    with pytest.raises(UserError) as caught:
        read_params(config, tmp_path, np.float32)
    assert str(caught.value).splitlines() == [
        f"{tmp_path}: tensors that do not fit the model (6):",
        f"  missing: {NORM}",
        "  missing: query_tokens",
        "  unexpected: another.stranger",
        "  unexpected: stranger",
        "  shape of abstractor.vit_eos: found (1, 1, 7), expected (1, 1, 48)",
        f"  shape of {HEAD}: found (48, 128), expected (128, 48)",
    ]


def test_more_layers_than_the_config_says_are_unexpected(tmp_path):
    _copy(golden.LLAMA, tmp_path)
    values = json.loads((tmp_path / "config.json").read_text())
    values["text_config"]["num_hidden_layers"] = 1
    (tmp_path / "config.json").write_text(json.dumps(values))
    with pytest.raises(UserError, match=r"unexpected: language_model\.model\.layers\.1\."):
        read_params(read_config(tmp_path), tmp_path, np.float32)


def test_tensor_in_two_shards_is_an_error(tmp_path):
    config = _copy(golden.LLAMA, tmp_path)
    tensors = _tensors(golden.LLAMA)
    some = {name: tensors[name] for name in (NORM, HEAD)}
    _shards(tmp_path, whole=tensors, again=some)
    with pytest.raises(UserError, match=f"in more than one file: {HEAD}, {NORM}"):
        read_params(config, tmp_path, np.float32)


def test_tied_head_may_be_absent_or_equal_but_not_different(tmp_path):
    config = _copy(golden.BLOOM, tmp_path)
    tensors = _tensors(golden.BLOOM)
    head = tensors.pop(HEAD)
    save_file(tensors, tmp_path / WEIGHTS)
    expected = golden.model(golden.BLOOM)[1]  # read with an equal head
    jax.tree.map(np.testing.assert_array_equal, read_params(config, tmp_path, np.float32), expected)
    save_file({**tensors, HEAD: head + 1}, tmp_path / WEIGHTS)
    with pytest.raises(UserError, match=rf"tied, but different from .*word_embeddings.*: {HEAD}"):
        read_params(config, tmp_path, np.float32)


def test_truncated_weights_are_an_error(tmp_path):
    config = _copy(golden.LLAMA, tmp_path)
    whole = (tmp_path / WEIGHTS).read_bytes()
    for part in (whole[:-100], whole[:100], b""):
        (tmp_path / WEIGHTS).write_bytes(part)
        with pytest.raises(UserError, match=r"model\.safetensors: not a readable safetensors file"):
            read_params(config, tmp_path, np.float32)


def test_shards_that_are_not_there_are_named(tmp_path):
    config = _copy(golden.LLAMA, tmp_path)
    index = {"weight_map": {"a": "one.safetensors", "b": "two.safetensors", "c": WEIGHTS}}
    (tmp_path / INDEX).write_text(json.dumps(index))
    with pytest.raises(UserError, match=r"names one\.safetensors, two\.safetensors, which is not"):
        read_params(config, tmp_path, np.float32)
    (tmp_path / INDEX).write_text("{}")
    with pytest.raises(UserError, match="no weight_map"):
        read_params(config, tmp_path, np.float32)


def test_directory_without_weights_is_an_error(tmp_path):
    config = _copy(golden.LLAMA, tmp_path)
    (tmp_path / WEIGHTS).unlink()
    with pytest.raises(UserError, match=r"no model\.safetensors and no index"):
        read_params(config, tmp_path, np.float32)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, r"no config\.json"),
        ("not JSON", "not JSON"),
        ("[1, 2]", "expected a JSON object, found list"),
        ("{}", "no vision_config, visual_abstractor_config, text_config; expected the config of"),
        ('{"vision_config": {}, "visual_abstractor_config": {}, "text_config": null}',
         "no text_config; expected"),
    ],
)  # fmt: skip
def test_unsuitable_config_is_an_error(text, message, tmp_path):
    _copy(golden.LLAMA, tmp_path)
    (tmp_path / "config.json").unlink()
    if text is not None:
        (tmp_path / "config.json").write_text(text)
    with pytest.raises(UserError, match=message):
        read_config(tmp_path)


@pytest.mark.parametrize(
    ("section", "key", "value", "message"),
    [
        ("text_config", "model_type", "gpt2", "'gpt2': expected llama or bloom"),
        ("text_config", "vocab_size", None, "no value for 'vocab_size'"),
        ("vision_config", "image_size", None, "no value for 'image_size'"),
    ],
)
def test_unsuitable_value_is_an_error(section, key, value, message, tmp_path):
    _copy(golden.LLAMA, tmp_path)
    path = tmp_path / "config.json"
    values = json.loads(path.read_text())
    del values[section][key]
    if value is not None:
        values[section][key] = value
    path.write_text(json.dumps(values))
    with pytest.raises(UserError, match=message):
        read_config(tmp_path)
