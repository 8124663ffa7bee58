"""The weights that a run starts from: in 8 bits, and back in what is exported."""

import dataclasses
import json
import re
import runpy

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from flax.traverse_util import flatten_dict
from ml_collections import ConfigDict
from read_whole import load_model
from training_runs import CONFIG, metrics_of

import owl_jax
from owl_jax.checkpoint.adapter_base import Base, base_hash
from owl_jax.checkpoint.hf_import import abstract_params
from owl_jax.checkpoint.model_directory import save_model
from owl_jax.errors import UserError
from owl_jax.models.connectors.owl2_abstractor import Owl2AbstractorConfig, grid_sinusoids
from owl_jax.models.language.owl2 import Owl2LlamaConfig
from owl_jax.models.lora import LoraConfig
from owl_jax.models.vision.positions import interpolated
from owl_jax.models.vision.siglip import SiglipConfig
from owl_jax.parallel.mesh import make_mesh
from owl_jax.training.init_params import initialize
from owl_jax.training.loop import train
from owl_jax.training.train_program import make_program


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    directory = tmp_path_factory.mktemp("weights")
    base = tiny.write_model(directory / "base")
    (directory / "config.py").write_text(CONFIG.format(base=base))
    return directory


@pytest.fixture
def config(files):
    config = runpy.run_path(str(files / "config.py"))["get_config"]()
    config.steps = 3
    return config


def test_stage_1_of_owl2_starts_from_llama_and_a_smaller_clip(files, tmp_path, capsys):
    base, params = load_model(files / "base", np.float32)
    vision = {**params["vision"], "layers": dict(params["vision"]["layers"])}
    del vision["layers"]["temporal"]
    start = dataclasses.replace(
        base,
        vision=dataclasses.replace(base.vision, temporal=False),
        connector=Owl2AbstractorConfig(4, 16, 32, num_layers=1, num_heads=2),
    )
    save_model(
        tmp_path / "start",
        start,
        {"vision": vision, "llm": params["llm"]},
        "orbax",
    )
    config = runpy.run_path("configs/owl2/stage1.py")["get_config"]()
    config.model = ConfigDict(
        dataclasses.replace(
            start,
            vision=dataclasses.replace(start.vision, image_size=42),
            llm=Owl2LlamaConfig(
                340, 16, 32, num_layers=1, num_heads=2, num_kv_heads=2, max_positions=192
            ),
        ).to_dict()
    )
    config.batch_size, config.gradient_accumulation_steps = 8, 1
    config.data.sequence_length, config.data.image_slots = 64, 1
    config.init.vision = config.init.llm = str(tmp_path / "start")
    config.frozen_dtype = config.compute.dtype = "float32"
    program = make_program(config, make_mesh(data=2, fsdp=2, tensor=2))
    found = jax.device_get(initialize(config, program))

    layers = found["llm"]["layers"]
    for name in ("k_proj", "v_proj", "attention_norm", "mlp_norm"):
        jax.tree.map(np.testing.assert_array_equal, layers[f"visual_{name}"], layers[name])
        jax.tree.map(np.testing.assert_array_equal, layers[name], params["llm"]["layers"][name])
    positions = params["vision"]["positions"]
    np.testing.assert_array_equal(found["vision"]["positions"], interpolated(positions, 10))
    assert "vision/positions: (5, 16) fitted to (10, 16)" in capsys.readouterr().err
    # The fixed positions are initialised, and no rule trains them.
    table = grid_sinusoids(10, 16)
    keys = found["connector"]["layers"]["key_positions"]
    np.testing.assert_allclose(keys[0], table, atol=1e-6)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
def test_weights_are_what_the_program_describes(config, dtype):
    config.frozen_dtype = dtype
    program = make_program(config, make_mesh(data=2, fsdp=2, tensor=2))
    params = initialize(config, program)
    assert jax.tree.structure(params) == jax.tree.structure(program.params)
    for array, leaf in zip(jax.tree.leaves(params), jax.tree.leaves(program.params), strict=True):
        assert (array.shape, array.dtype) == (leaf.shape, leaf.dtype)
        assert array.sharding.is_equivalent_to(leaf.sharding, array.ndim)


def test_the_start_of_a_deeper_encoder(files, config, capsys):
    """As LLaVA takes its encoder from CLIP."""
    deep = dataclasses.replace(tiny.CONFIG.vision, num_layers=3)
    directory = tiny.write_model(files / "deep", dataclasses.replace(tiny.CONFIG, vision=deep))
    config.init.vision = str(directory)
    config.model.vision.update(num_layers=2, post_norm=False)
    program = make_program(config, make_mesh())
    vision = initialize(config, program)["vision"]
    assert "deep: the first 2 of 3 layers of the vision encoder are used" in capsys.readouterr().err
    whole = load_model(directory, np.float32)[1]["vision"]
    assert vision.keys() == whole.keys() - {"post_norm"}
    for path, value in flatten_dict(vision).items():
        expected = flatten_dict(whole)[path]
        expected = expected[:2] if path[0] == "layers" else expected
        np.testing.assert_array_equal(value, expected.astype(value.dtype))

    config.model.vision.post_norm = True
    with pytest.raises(UserError, match=r"deep: vision does not fit .*\(3, .* instead of \(2, "):
        initialize(config, make_program(config, make_mesh()))


@pytest.mark.parametrize(
    ("field", "value", "given"),
    [
        ("layer_norm_eps", 1e-3, "1e-06"),
        ("pixel_mean", (0.5, 0.5, 0.5), "'(0.48145466, 0.4578275, 0.40821073)'"),
        ("pixel_std", (0.5, 0.5, 0.5), "'(0.26862954, 0.26130258, 0.27577711)'"),
    ],
)
def test_what_an_encoder_was_trained_with_must_agree(field, value, given, files, config):
    config.init.vision = str(files / "base")
    config.model.vision[field] = value
    program = make_program(config, make_mesh())
    key = f"config.model.vision.{field}"
    message = f"base has {field} .*, but {key} is {re.escape(str(value))}; give --{key}="
    with pytest.raises(UserError, match=message + re.escape(given)) as error:
        initialize(config, program)
    assert "\n" not in str(error.value)


def test_an_encoder_of_another_architecture_is_named(files, config):
    config.init.vision = str(files / "base")
    config.model.vision = dataclasses.asdict(SiglipConfig(14, 7, 16, 32, 1, 2))
    with pytest.raises(UserError, match=r"base: vision is clip, but config.model has siglip; give"):
        initialize(config, make_program(config, make_mesh()))


def test_an_adapter_of_another_rank_is_refused_by_name_and_shape(config, files):
    base, params = load_model(files / "base", np.float32)
    lora = LoraConfig(rank=3, alpha=4.0)
    start = dataclasses.replace(base, lora=lora)
    random = np.random.default_rng(0)
    adapter = jax.tree.map(
        lambda leaf: random.normal(size=leaf.shape).astype(np.float32),
        abstract_params(start)["lora"],
    )
    save_model(
        files / "rank 3", start, {"lora": adapter}, "orbax", base=Base.of("base", params["llm"])
    )
    config.init.lora = str(files / "rank 3")
    message = r"rank 3: lora does not fit .*/a: \(1, 16, 3\) instead of \(1, 16, 2\)"
    with pytest.raises(UserError, match=message):
        initialize(config, make_program(config, make_mesh()))


def test_a_language_model_of_another_size_is_refused_unread(config, files, monkeypatch):
    def unread(*_):
        pytest.fail("a tensor was read")

    monkeypatch.setattr("owl_jax.training.init_params.read", unread)
    config.model.llm.intermediate_size = 48
    message = r"base: llm does not fit .*: \(1, 32, 16\) instead of \(1, 48, 16\)"
    with pytest.raises(UserError, match=message):
        initialize(config, make_program(config, make_mesh()))


def test_in_8_bits_weights_are_off_by_half_a_step_at_most(config, files):
    config.frozen_dtype = "int8"
    llm = initialize(config, make_program(config, make_mesh()))["llm"]
    expected = load_model(files / "base", np.float32)[1]["llm"]["layers"]["up_proj"]["kernel"]
    kernel, scale = (np.asarray(llm["layers"]["up_proj"][name]) for name in ("kernel", "scale"))
    assert kernel.dtype == np.int8 and np.abs(kernel).max() == 127
    off = np.abs(kernel * scale[:, None] - expected)
    assert (off <= 0.5001 * scale[:, None]).all() and off.max() > 0
    assert llm["lm_head"]["kernel"].dtype == jnp.bfloat16


def test_a_run_on_a_base_in_8_bits_exports_the_base_as_it_was(config, files, tmp_path):
    losses = {}
    for dtype in ("float32", "int8"):
        config.frozen_dtype = dtype
        workdir = tmp_path / dtype
        assert train(config, workdir) == workdir / "model"
        losses[dtype] = [line["loss"] for line in metrics_of(workdir)]
    assert losses["int8"] != losses["float32"]
    assert losses["int8"] == pytest.approx(losses["float32"], rel=0.02)

    owl = owl_jax.load(tmp_path / "int8" / "model", dtype="float32")
    _, base = load_model(files / "base", np.float32)
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(owl.params["llm"]), base["llm"])
    assert np.abs(owl.params["lora"]["layers"]["q_proj"]["b"]).max() > 0

    # Its adapter continues from there, on the same base in whatever dtype.
    recorded = json.loads((tmp_path / "int8" / "model" / "owl_jax_base.json").read_text())
    assert recorded["fingerprint"] == base_hash(base["llm"])
    config.init.lora = str(tmp_path / "int8" / "model")
    for dtype in ("bfloat16", "int8"):
        config.frozen_dtype = dtype
        params = initialize(config, make_program(config, make_mesh()))
        np.testing.assert_array_equal(
            params["lora"]["layers"]["q_proj"]["b"], owl.params["lora"]["layers"]["q_proj"]["b"]
        )
