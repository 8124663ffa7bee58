"""Weights as Hugging Face directories hold them: in shards, with more words, as CLIP, LLaMA, BLOOM.

The parts are made from the recorded models by their public names (tests/checkpoint/directories.py).
"""

import json
import shutil

import directories
import golden
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from directories import BLOOM, INDEX, LLAMA, VIDEO, WEIGHTS, assert_same_bits, assert_same_tree
from flax.traverse_util import flatten_dict
from read_whole import load_model, read_subtrees
from safetensors.numpy import load_file

from owl_jax.checkpoint.hf_import import (
    open_family,
    open_files,
    open_language,
    open_vision,
    write_family,
)
from owl_jax.checkpoint.lazy_arrays import read
from owl_jax.checkpoint.model_directory import open_any
from owl_jax.checkpoint.safetensors_writer import write_shards
from owl_jax.checkpoint.tensors import to_source
from owl_jax.errors import UserError
from owl_jax.inference.load import load_owl
from owl_jax.models.families.mplug_owl import MPLUG_OWL
from owl_jax.models.weight_names import BUFFERS

CASES = (golden.LLAMA, golden.BLOOM, golden.BLOOM_6, golden.VIDEO)
EMBEDDING = "language_model.model.embed_tokens.weight"
HEAD = "language_model.lm_head.weight"


def _read(opened):
    return jax.tree.map(read, opened.params)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_weights_are_written_as_they_were_read(case, dtype, tmp_path):
    original = {
        name: value.astype(dtype)
        for name, value in directories.tensors(golden.GOLDENS / case).items()
    }
    values = directories.config(golden.GOLDENS / case)
    opened = open_family(directories.write(tmp_path / "source", values, original))
    assert opened.config == golden.model(case)[0]
    write_family(MPLUG_OWL, opened.config, opened.params, tmp_path)
    left_out = {name for name in original if BUFFERS.fullmatch(name)} | MPLUG_OWL.tied(
        opened.config
    ).keys()
    kept = {name: value for name, value in original.items() if name not in left_out}
    assert len(kept) > 50
    assert_same_bits(directories.tensors(tmp_path), kept)


def test_weights_on_devices_are_written_too(tmp_path):
    config, params = golden.model(golden.LLAMA)
    narrow = jax.tree.map(lambda x: jnp.asarray(x, jnp.bfloat16), params)
    write_family(MPLUG_OWL, config, narrow, directories.copy(LLAMA, tmp_path))
    assert_same_tree(_read(open_family(tmp_path)), jax.tree.map(np.asarray, narrow))


def test_shards_equal_one_file(tmp_path):
    directories.copy(LLAMA, tmp_path)
    tensors = sorted(directories.tensors(LLAMA).items())
    directories.write_shards(tmp_path, b=dict(tensors[:50]), a=dict(tensors[50:]))
    config, params = load_model(tmp_path, np.float32)
    assert config == golden.model(golden.LLAMA)[0]
    assert_same_tree(params, golden.model(golden.LLAMA)[1])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_written_shards_are_read_back(dtype, tmp_path):
    config, params = golden.model(golden.BLOOM)
    params = jax.tree.map(lambda x: x.astype(dtype), params)
    write_shards(to_source(MPLUG_OWL.weight_rows(config), params), tmp_path, shard_bytes=50_000)
    shutil.copyfile(BLOOM / "config.json", tmp_path / "config.json")
    index = json.loads((tmp_path / INDEX).read_text())
    assert len(set(index["weight_map"].values())) > 3
    for name, file in index["weight_map"].items():
        assert name in load_file(tmp_path / file)
    assert_same_tree(_read(open_family(tmp_path)), params)


def test_index_that_does_not_fit_its_shards_is_an_error(tmp_path):
    directories.copy(LLAMA, tmp_path)
    tensors = directories.tensors(LLAMA)
    weight_map = directories.write_shards(tmp_path, one=tensors, two={"x": np.zeros(1)})

    def refused(index):
        (tmp_path / INDEX).write_text(json.dumps(index))
        with pytest.raises(UserError) as caught:
            load_model(tmp_path, "float32")
        return str(caught.value)

    index = tmp_path / INDEX
    for damaged in ({}, {"weight_map": {}}, {"weight_map": ["one.safetensors"]}):
        assert refused(damaged) == f"{index}: no weight_map; expected the index of a sharded model"
    absent = {"b": "three.safetensors", "a": "four.safetensors"}
    assert refused({"weight_map": weight_map | absent}) == (
        f"{index} names four.safetensors, three.safetensors, which does not exist"
    )
    assert refused(
        {"weight_map": {**weight_map, "z": "one.safetensors", "y": "two.safetensors"}}
    ) == (f"{index} names tensors that its files do not have (2): y, z")
    assert "unexpected: x" in refused({"weight_map": weight_map})
    # Half of the shards are copied, and the index is of those.
    assert "missing: " in refused({"weight_map": {"x": "two.safetensors"}})


def test_directory_without_weights_is_an_error(tmp_path):
    directories.copy(LLAMA, tmp_path)
    (tmp_path / WEIGHTS).unlink()
    with pytest.raises(UserError, match=r"no model\.safetensors, no pytorch_model\.bin and no ind"):
        open_files(tmp_path)


def test_config_of_other_sizes_is_an_error_that_names_the_tensors(tmp_path):
    directories.copy(LLAMA, tmp_path)
    directories.change_config(tmp_path, "text_config", num_hidden_layers=1)
    with pytest.raises(UserError, match=r"unexpected: language_model\.model\.layers\.1\."):
        load_model(tmp_path, np.float32)
    directories.change_config(tmp_path, "text_config", num_hidden_layers=2, hidden_size=64)
    with pytest.raises(UserError, match=rf"{HEAD} \(found \(128, 48\), expected \(128, 64"):
        load_model(tmp_path, np.float32)


@pytest.mark.parametrize("source", [LLAMA, BLOOM], ids=["llama", "bloom"])
def test_vocabulary_is_what_the_embedding_has(source, tmp_path, capsys):
    tensors, values = directories.tensors(source), directories.config(source)
    for name in tensors:
        if "embed_tokens" in name or "word_embeddings.weight" in name or name == HEAD:
            tensors[name] = np.concatenate([tensors[name], tensors[name][:4]])
    opened = open_family(directories.write(tmp_path / "owl", values, tensors))
    assert opened.config.llm.vocab_size == 132
    opened.print_notes(tmp_path)
    note = "config.json says vocab_size 128, the embedding has 132 rows; using 132"
    assert capsys.readouterr().err == f"note: {tmp_path}: {note}\n"
    params = flatten_dict(_read(opened), sep="/")
    (embedding,) = (value for path, value in params.items() if path.endswith("/embedding"))
    assert embedding.shape == (132, 48)
    # A plain language model too; and a head that did not grow is refused.
    alone = open_language(directories.write_language(tmp_path / "owl", tmp_path / "alone"))
    assert (alone.config.llm.vocab_size, alone.notes) == (132, (note,))
    tensors[HEAD] = tensors[HEAD][:128]
    with pytest.raises(UserError, match=HEAD):
        open_family(directories.write(tmp_path / "owl", values, tensors))


def test_infinities_of_float16_are_warned_of_once_read(tmp_path, capsys):
    tensors = {name: value.astype(np.float16) for name, value in directories.tensors(LLAMA).items()}
    tensors[HEAD][3, :5] = np.inf
    tensors[EMBEDDING][1, 1] = np.nan
    opened = open_family(directories.write(tmp_path, directories.config(LLAMA), tensors))
    opened.print_notes(tmp_path)
    assert capsys.readouterr().err == ""
    kernel = _read(opened)["llm"]["lm_head"]["kernel"]
    assert kernel.dtype == np.float16
    assert np.isinf(kernel).sum() == 5
    opened.print_notes(tmp_path)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(
        f"warning: {tmp_path}: 6 elements of 2 float16 tensors are not finite, the first in {HEAD};"
    )


def test_clips_vision_tower_alone_and_in_its_model(tmp_path):
    expected = {"vision": golden.model(golden.LLAMA)[1]["vision"]}
    others = {
        "text_model.embeddings.token_embedding.weight": np.ones((3, 2), np.float32),
        "visual_projection.weight": np.ones((2, 2), np.float32),
        "text_projection.weight": np.ones((2, 2), np.float32),
        "logit_scale": np.ones((), np.float32),
    }
    buffer = {"vision_model.embeddings.position_ids": np.arange(5)}
    alone = open_vision(directories.write_clip(tmp_path / "alone"))
    assert alone.notes == ()
    bare = open_vision(directories.write_clip(tmp_path / "bare", prefix=""))
    whole = open_any(directories.write_clip(tmp_path / "whole", **others, **buffer))
    assert whole.notes == (
        "CLIP's text tower, projections and logit scale (4 tensors) are not used",
    )
    for opened in (alone, bare, whole):
        assert opened.config.vision == golden.model(golden.LLAMA)[0].vision
        assert_same_tree(_read(opened), expected)
    directories.change_config(tmp_path / "alone", hidden_act="gelu")
    with pytest.raises(UserError, match="hidden_act is 'gelu'"):
        open_any(tmp_path / "alone")
    strange = directories.write_clip(tmp_path / "strange", pooler=np.ones(2, np.float32))
    with pytest.raises(UserError, match="unexpected: pooler"):
        open_any(strange)


@pytest.mark.parametrize(
    ("source", "removed"), [(LLAMA, ""), (BLOOM, ""), (BLOOM, "transformer.")],
    ids=["llama", "bloom", "bloom as it was published"],
)  # fmt: skip
def test_plain_language_models(source, removed, tmp_path):
    opened = open_any(directories.write_language(source, tmp_path, removed))
    config, params = golden.model(source.name)
    assert (opened.config.llm, opened.notes) == (config.llm, ())
    assert_same_tree(_read(opened), {"llm": params["llm"]})


def test_head_of_a_plain_llama_may_be_its_embedding(tmp_path):
    directory = directories.write_language(LLAMA, tmp_path)
    tensors = directories.tensors(directory)
    del tensors["lm_head.weight"]
    directories.write(directory, directories.config(directory), tensors)
    directories.change_config(directory, tie_word_embeddings=False)
    with pytest.raises(UserError, match=r"missing: lm_head\.weight"):
        open_language(directory)
    directories.change_config(directory, tie_word_embeddings=True)
    llm = _read(open_language(directory))["llm"]
    embedding = tensors["model.embed_tokens.weight"]
    np.testing.assert_array_equal(llm["embed_tokens"]["embedding"], embedding)
    assert "lm_head" not in llm
    ids = np.arange(10)[None]
    tied = load_owl(directory, "float32", None, None).logits(ids)
    # The same as with a head of its own that holds the same numbers.
    weights = {**tensors, "lm_head.weight": embedding}
    directories.write(directory, directories.config(directory), weights)
    directories.change_config(directory, tie_word_embeddings=False)
    apart = load_owl(directory, "float32", None, None).logits(ids)
    np.testing.assert_allclose(tied, apart, rtol=0, atol=1e-5)


def test_part_is_no_whole_model(tmp_path):
    directories.write_clip(tmp_path / "clip")
    directories.write_language(LLAMA, tmp_path / "llama")
    with pytest.raises(UserError, match="no connector and no llm; it has vision"):
        load_model(tmp_path / "clip", "float32")
    with pytest.raises(UserError, match="no vision; it has llm"):
        read_subtrees(tmp_path / "llama", ["vision"], "float32")
    directories.change_config(tmp_path / "llama", model_type="gpt2")
    with pytest.raises(UserError, match="model_type is 'gpt2'; expected one of mplug-owl, "):
        open_any(tmp_path / "llama")


@pytest.mark.parametrize(
    ("config", "weights", "kinds"),
    [
        ("qwen2", "llava", "'llava'"),
        ("qwen2", "llava of transformers 5", "'llava'"),
        ("clip", "llava", "'llava'"),
        ("clip", "mplug-owl", "'mplug-owl'"),
        ("clip", "llama", "'llama' or 'mistral'"),
        ("qwen3", "clip", "'clip' or 'clip_vision_model'"),
        ("qwen2", "bloom", "'bloom'"),
        ("llava", "llama", "'llama' or 'mistral'"),
        ("llava", "clip without prefix", "'clip' or 'clip_vision_model'"),
    ],
)
def test_weights_of_another_kind_are_named_not_listed(config, weights, kinds, tmp_path):
    written = {
        "llama": lambda path: directories.write_language(LLAMA, path),
        "bloom": lambda path: directories.write_language(BLOOM, path, "transformer."),
        "clip": directories.write_clip,
        "clip without prefix": lambda path: directories.write_clip(path, prefix=""),
        "mplug-owl": lambda path: directories.copy(LLAMA, path),
    }
    if weights in written:
        tensors = directories.tensors(written[weights](tmp_path / "weights"))
    else:
        tensors = {f"language_model.{name}": np.zeros(1, np.float32) for name in map(str, range(9))}
        prefix = "model." if weights.endswith("5") else ""
        tensors[f"{prefix}multi_modal_projector.linear_1.weight"] = np.zeros(1, np.float32)
    if config == "clip":
        values = {"model_type": "clip_vision_model"}
    elif config == "llava":
        values = {"model_type": "llava", "text_config": {}, "vision_config": {}}
    else:
        values = {"model_type": config, "num_hidden_layers": 2, "vocab_size": 128}
    kind = values["model_type"]
    directory = directories.write(tmp_path / "mixed", values, tensors)
    with pytest.raises(UserError) as caught:
        open_any(directory)
    assert str(caught.value) == (
        f"{directory}: config.json has model_type '{kind}', but the weights are those of {kinds}; "
        "copy both from the same model"
    )


@pytest.mark.parametrize("kind", ["llama", "clip", "mplug-owl"])
@pytest.mark.parametrize("wrapper", ["module.", "_orig_mod.", "a.b."])
def test_names_with_a_wrapper_s_prefix(kind, wrapper, tmp_path):
    write = {
        "llama": lambda path: directories.write_language(LLAMA, path),
        "clip": directories.write_clip,
        "mplug-owl": lambda path: directories.copy(LLAMA, path),
    }[kind]
    directory = write(tmp_path)
    tensors = {wrapper + name: value for name, value in directories.tensors(directory).items()}
    directories.write(directory, directories.config(directory), tensors)
    with pytest.raises(UserError, match=f"all names of tensors begin with '{wrapper}', which"):
        open_any(directory)


def test_video_release_is_told_by_its_tensors(tmp_path):
    directories.copy(VIDEO, tmp_path)
    assert open_family(tmp_path).config.vision.temporal
    tensors = directories.tensors(VIDEO)
    del tensors["temporal_query_tokens"]
    directories.write(tmp_path, directories.config(VIDEO), tensors)
    with pytest.raises(UserError, match=r"unexpected: abstractor\.temporal_visual_fc\.bias"):
        open_family(tmp_path)


def test_bfloat16_parts_are_read_as_bfloat16(tmp_path):
    directory = directories.write_clip(tmp_path)
    narrow = {k: v.astype(ml_dtypes.bfloat16) for k, v in directories.tensors(directory).items()}
    directories.write(directory, directories.config(directory), narrow)
    vision = golden.model(golden.LLAMA)[1]["vision"]
    expected = jax.tree.map(lambda x: x.astype(ml_dtypes.bfloat16), vision)
    assert_same_tree(_read(open_vision(directory)), {"vision": expected})


@pytest.mark.parametrize(
    "name", ["../model.safetensors", "/etc/passwd", "..", "a/b.safetensors", "x\0y", "a\\b"]
)
def test_index_names_files_beside_it(name, tmp_path):
    directories.copy(LLAMA, tmp_path / "model")
    index = tmp_path / "model" / INDEX
    index.write_text(json.dumps({"weight_map": {"x": name}}))
    with pytest.raises(UserError, match="expected names of files beside it"):
        load_model(tmp_path / "model", "float32")


@pytest.mark.parametrize("value", [3, None, ["a"], {}, "", "a" * 256])
def test_index_with_values_that_are_no_names(value, tmp_path):
    directories.copy(LLAMA, tmp_path)
    (tmp_path / INDEX).write_text(json.dumps({"weight_map": {"x": value}}))
    with pytest.raises(UserError, match=r"index\.json: weight_map.* is .*; expected a string"):
        load_model(tmp_path, "float32")


def test_shard_that_is_a_folder_is_an_error(tmp_path):
    directories.copy(LLAMA, tmp_path)
    (tmp_path / "one.safetensors").mkdir()
    (tmp_path / INDEX).write_text(json.dumps({"weight_map": {"x": "one.safetensors"}}))
    with pytest.raises(UserError, match=r"one\.safetensors: is a directory; expected weights"):
        load_model(tmp_path, "float32")
