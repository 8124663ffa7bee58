"""What an adapter was trained on: recorded with it, compared when it is loaded."""

import dataclasses
import json
import re
import shutil

import directories
import golden
import jax
import numpy as np
import pytest
from directories import LLAMA, assert_same_tree
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

import owl_jax
from owl_jax.checkpoint.adapter_base import (
    BASE_FILE,
    Base,
    base_hash,
    check_base,
    read_base,
    with_recorded,
)
from owl_jax.checkpoint.hf_import import open_family
from owl_jax.checkpoint.lazy_arrays import device_put_lazy
from owl_jax.checkpoint.model_directory import save_model
from owl_jax.errors import UserError
from owl_jax.media.resizing import Resizing
from owl_jax.parallel.mesh import make_mesh

LLM = golden.model(golden.LLAMA)[1]["llm"]
MODULE = "language_model.model.layers.1.self_attn.k_proj.weight"


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    """The same model with one number of one layer changed, as brief training would."""
    tensors = directories.tensors(LLAMA)
    tensors[MODULE][3, 2] += 0.1
    path = tmp_path_factory.mktemp("bases") / "other"
    return directories.write(path, directories.config(LLAMA), tensors)


@pytest.fixture(scope="module", params=["peft", "orbax"])
def adapter(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("adapters") / request.param
    owl_jax.load(LLAMA, "bfloat16", adapter=directories.ADAPTER).save(path, request.param)
    return path


def test_saved_adapter_names_its_base(adapter):
    assert read_base(adapter) == Base(str(LLAMA), base_hash(LLM))
    if (adapter / "adapter_config.json").exists():
        values = json.loads((adapter / "adapter_config.json").read_text())
        assert values["base_model_name_or_path"] == str(LLAMA)


def test_other_base_is_refused_and_named_unless_any_base_may_do(adapter, other):
    recorded, found = read_base(adapter), base_hash(open_family(other).params["llm"])
    with pytest.raises(UserError) as caught:
        owl_jax.load(other, adapter=adapter)
    assert str(caught.value).startswith(
        f"{adapter} was trained on {LLAMA} ({recorded.fingerprint[:14]}), not on {other} "
        f"({found[:14]}); "
    )
    assert "any_base=True" in str(caught.value)
    insisted = owl_jax.load(other, adapter=adapter, any_base=True)
    suitable = owl_jax.load(LLAMA, adapter=adapter)
    assert_same_tree(insisted.params["lora"], suitable.params["lora"])


def test_adapter_without_a_record_is_taken(adapter, other, tmp_path):
    copied = shutil.copytree(adapter, tmp_path / "copy")
    (copied / BASE_FILE).unlink()
    assert owl_jax.load(other, adapter=copied).config.lora is not None
    for damaged in ('{"name": "x"}', '{"name": "x", "fingerprint": "y", "size": 3}'):
        (copied / BASE_FILE).write_text(damaged)
        with pytest.raises(UserError, match=r"owl_jax_base\.json: expected name and fingerprint"):
            owl_jax.load(other, adapter=copied)


@pytest.mark.parametrize("format", ["peft", "orbax"])
def test_adapter_brings_the_prompts_and_pictures_of_its_training(format, tmp_path):
    owl = owl_jax.load(LLAMA, adapter=directories.ADAPTER, conversation="chatml")
    trained = dataclasses.replace(owl.config, resizing=Resizing("pad"))
    save_model(tmp_path / "adapter", trained, owl.params, format)
    assert owl_jax.load(LLAMA, adapter=tmp_path / "adapter").config == trained
    chosen = owl_jax.load(LLAMA, adapter=tmp_path / "adapter", conversation="owl").config
    assert chosen == dataclasses.replace(trained, conversation="owl")


def test_record_of_an_earlier_version(tmp_path):
    config = golden.model(golden.LLAMA)[0]
    assert with_recorded(config, tmp_path) == config
    base = Base("x", "0" * 64)
    (tmp_path / BASE_FILE).write_text(json.dumps(dataclasses.asdict(base)))
    assert read_base(tmp_path) == base
    assert with_recorded(config, tmp_path) == config


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"conversation": "nobody's"}, r"owl_jax_base\.json: .*nobody"),
        ({"resizing": {"kind": "stretch"}}, r"owl_jax_base\.json: resizing\.kind is 'stretch'"),
    ],
)
def test_recorded_training_that_makes_no_sense(changes, message, tmp_path):
    record = {"name": "x", "fingerprint": "0" * 64, **changes}
    (tmp_path / BASE_FILE).write_text(json.dumps(record))
    with pytest.raises(UserError, match=message):
        with_recorded(golden.model(golden.LLAMA)[0], tmp_path)


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"name": 3, "fingerprint": "0" * 64}, "name is 3; expected a string"),
        ({"name": "x", "fingerprint": "short"}, "fingerprint is 'short'; expected a string"),
        ({"name": "x", "fingerprint": None}, "fingerprint is None; expected a string"),
        ({"name": "x", "fingerprint": ["0"]}, "fingerprint is .*; expected a string"),
    ],
)
def test_record_that_makes_no_sense(record, message, tmp_path):
    (tmp_path / BASE_FILE).write_text(json.dumps(record))
    with pytest.raises(UserError, match=message):
        read_base(tmp_path)


def test_fingerprint_is_of_the_numbers_not_of_where_they_lie(tmp_path):
    expected = base_hash(LLM)
    assert re.fullmatch("[0-9a-f]{64}", expected)
    narrow = jax.tree.map(lambda x: x.astype("bfloat16"), LLM)
    mesh = make_mesh(1, 4, 2)
    spread = jax.tree.map(lambda x: device_put_lazy(x, None, NamedSharding(mesh, P(None))), LLM)
    config, params = golden.model(golden.LLAMA)
    save_model(tmp_path / "own", config, params, "orbax")
    stored = owl_jax.load(tmp_path / "own", "float32").params["llm"]
    for same in (narrow, spread, stored, open_family(LLAMA).params["llm"]):
        assert base_hash(same) == expected


@pytest.mark.parametrize("path", [("layers", "down_proj", "kernel"), ("norm", "scale")])
def test_fingerprint_sees_every_layer_and_tensor(path):
    changed = jax.tree.map(np.copy, LLM)
    leaf = changed
    for key in path:
        leaf = leaf[key]
    leaf[(-1,) + (0,) * (leaf.ndim - 1) if leaf.ndim > 1 else 5] *= 1.05
    assert base_hash(changed) != base_hash(LLM)


def test_only_corners_are_read():
    opened = open_family(LLAMA)
    base_hash(opened.params["llm"])
    whole = sum(leaf.nbytes for leaf in jax.tree.leaves(LLM))
    assert opened.files.bytes_read < whole / 2


def test_base_without_a_name_is_said_to_have_none(tmp_path):
    (tmp_path / BASE_FILE).write_text(json.dumps({"name": "", "fingerprint": "0" * 64}))
    with pytest.raises(UserError, match=r"on an unnamed base \(0{14}\), not on here \("):
        check_base(tmp_path, LLM, "here", any_base=False)
    check_base(tmp_path, LLM, "here", any_base=True)
