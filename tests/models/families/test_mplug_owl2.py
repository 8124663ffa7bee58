"""mPLUG-Owl2 as a family: directories in and out, generation, rows of different kinds, adapters."""

import dataclasses
import json
import math
import shutil

import golden
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from read_whole import read_adapter
from safetensors.numpy import load_file

import owl_jax
from owl_jax.checkpoint.adapter import WEIGHTS_FILE
from owl_jax.checkpoint.hf_import import abstract_params
from owl_jax.checkpoint.model_directory import save_model
from owl_jax.checkpoint.tensors import to_source
from owl_jax.data.batch import SequenceShape
from owl_jax.errors import UserError
from owl_jax.models.compute import Compute
from owl_jax.models.connectors.owl2_abstractor import grid_sinusoids, line_sinusoids
from owl_jax.models.families.mplug_owl2 import MPLUG_OWL2, MPLUG_OWL2_7B
from owl_jax.models.language.llama import LlamaConfig
from owl_jax.models.lora import LoraConfig, merge
from owl_jax.models.weight_names import BUFFERS
from owl_jax.training.flops import training_flops
from owl_jax.training.partition import assign

CASE = golden.GOLDENS / golden.OWL2
ADAPTED = ("q_proj", "k_proj", "v_proj", "visual_k_proj", "visual_v_proj")


@pytest.fixture(scope="module")
def owl():
    return owl_jax.load(CASE, "float32")


def logits(config, params, ids, pixels):
    args = golden.rows(config, ids, pixels)
    return np.asarray(golden.jitted_forward(config, Compute(), params, **args))


def test_greedy_tokens_are_the_recorded_ones(owl):
    given, recorded = golden.inputs(golden.OWL2), golden.outputs(golden.OWL2)
    images = given["images"][:1].transpose(0, 2, 3, 1)
    ids = given["greedy_input_ids"]
    new = recorded["greedy_sequences"][:, -16:]
    tokens = owl.generate(ids, images, max_new_tokens=16, eos_token_id=-1)
    np.testing.assert_array_equal(tokens, new)

    # Each score is also that of the whole sequence: new tokens are text.
    whole = owl.logits(np.concatenate([ids, new], axis=1), images)
    scores = whole[:, ids.shape[1] - 1 : -1]
    np.testing.assert_allclose(scores, recorded["greedy_scores"], atol=1e-4)


def test_the_engine_s_logits_are_the_recorded_ones(owl):
    given, recorded = golden.inputs(golden.OWL2), golden.outputs(golden.OWL2)
    mask = given["attention_mask"]
    found = owl.logits(
        given["input_ids"], given["images"].transpose(0, 2, 3, 1), attention_mask=mask
    )
    np.testing.assert_allclose(found[mask], recorded["logits"][mask], atol=1e-4)


def test_in_8_bits_both_projections_are_quantised(owl):
    narrow = owl_jax.load(CASE, "int8")
    layers = narrow.params["llm"]["layers"]
    for name in ADAPTED:
        assert layers[name]["kernel"].dtype == jnp.int8 and "scale" in layers[name]
    given, recorded = golden.inputs(golden.OWL2), golden.outputs(golden.OWL2)
    images, real = given["images"].transpose(0, 2, 3, 1), given["attention_mask"]
    found = narrow.logits(given["input_ids"], images, attention_mask=real)[real]
    expected = recorded["logits"][real]
    assert np.linalg.norm(found - expected) < 0.03 * np.linalg.norm(expected)


def test_text_in_a_mixed_batch_takes_no_picture(owl):
    """The original gives a picture to each text-only row; the rows after it get the wrong ones."""
    given, recorded = golden.inputs(golden.OWL2), golden.outputs(golden.OWL2)
    images, text = given["images"], given["textonly_input_ids"]
    rows = np.zeros((4, given["input_ids"].shape[1]), np.int64)
    rows[[0, 2]] = given["input_ids"]
    rows[[1, 3], : text.shape[1]] = text
    found = logits(owl.config, owl.params, rows, images)
    real = given["attention_mask"]
    for row, kept, expected in zip((0, 2), real, recorded["logits"], strict=True):
        np.testing.assert_allclose(found[row][kept], expected[kept], atol=1e-4)
    for row in (1, 3):
        expected = recorded["textonly_logits"][0]
        np.testing.assert_allclose(found[row, : text.shape[1]], expected, atol=1e-4)


def packed(config, parts):
    """The arguments of `forward` for conversations in one sequence, and a picture of no token."""
    images = golden.inputs(golden.OWL2)["images"]
    args = golden.rows(config, np.concatenate(parts)[None], images)
    args["positions"] = np.concatenate([np.arange(len(part)) for part in parts])[None]
    segments = [np.full(len(part), i + 1) for i, part in enumerate(parts)]
    args["segment_ids"] = np.concatenate(segments)[None].astype(np.int32)
    free = np.ones_like(args["images"][:, :1])
    return {**args, "images": np.concatenate([args["images"], free], axis=1), "key_segments": None}


def recorded_rows(name):
    """The tokens, labels or logits of the two recorded rows without padding."""
    given = {**golden.outputs(golden.OWL2), **golden.inputs(golden.OWL2)}
    return [row[kept] for row, kept in zip(given[name], given["attention_mask"], strict=True)]


def test_packed_conversations_have_the_recorded_logits(owl):
    """Both recorded rows and the text between them."""
    text = golden.inputs(golden.OWL2)["textonly_input_ids"][0]
    text_logits = golden.outputs(golden.OWL2)["textonly_logits"][0]
    (first, second), (one, two) = recorded_rows("input_ids"), recorded_rows("logits")
    args = packed(owl.config, [first, text, second])
    found = golden.jitted_forward(owl.config, Compute(), owl.params, **args)
    np.testing.assert_allclose(found[0], np.concatenate([one, text_logits, two]), atol=1e-4)


def test_packed_conversations_have_the_recorded_loss_and_gradients(owl):
    args = packed(owl.config, recorded_rows("input_ids"))
    labels = np.concatenate(recorded_rows("labels"))[None, 1:]

    def loss(params):
        logits = golden.forward(owl.config, Compute(), params, **args)
        return golden.mean_loss(logits, np.maximum(labels, 0), (labels >= 0).astype(np.float32))

    found, gradients = jax.jit(jax.value_and_grad(loss))(owl.params)
    np.testing.assert_allclose(found, golden.outputs(golden.OWL2)["loss"], atol=2e-5)
    recorded = load_file(CASE / "grads.safetensors")
    ours = {
        tensor.name: tensor.read()
        for tensor in to_source(MPLUG_OWL2.weight_rows(owl.config), gradients)
    }
    assert {name for name in ours if not name.endswith("_pos_embed")} == recorded.keys()
    for name, value in recorded.items():
        error = np.linalg.norm(ours[name] - value)
        assert error <= 1e-3 * np.linalg.norm(value) + 1e-5, name


@pytest.mark.parametrize("format", ["huggingface", "orbax"])
def test_a_saved_model_is_the_same(owl, format, tmp_path):
    owl.save(tmp_path / "saved", format=format)
    again = owl_jax.load(tmp_path / "saved", "float32")
    assert again.config == owl.config
    for path, value in flatten_dict(owl.params).items():
        np.testing.assert_array_equal(flatten_dict(again.params)[path], value)


def test_the_exported_directory_has_the_original_s_tensors_and_keys(owl, tmp_path):
    owl.save(tmp_path / "saved")
    original, ours = load_file(CASE / "model.safetensors"), {}
    for file in (tmp_path / "saved").glob("*.safetensors"):
        ours |= load_file(file)
    assert ours.keys() == {name for name in original if not BUFFERS.fullmatch(name)}
    for name, value in ours.items():
        np.testing.assert_array_equal(value, original[name])
    written = json.loads((tmp_path / "saved" / "config.json").read_text())
    given = json.loads((CASE / "config.json").read_text())
    for section in ("visual_model", "visual_abstractor"):
        theirs, here = given["visual_config"][section], written["visual_config"][section]
        assert {**theirs, **here} == theirs
    assert written["architectures"] == given["architectures"]
    assert written["model_type"] == "mplug_owl2"


def edited(directory, edit, source=CASE):
    shutil.copytree(source, directory)
    values = json.loads((directory / "config.json").read_text())
    edit(values)
    (directory / "config.json").write_text(json.dumps(values))
    return directory


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (
            lambda values: values.pop("visual_config"),
            "no visual_config.visual_model; expected the config of an mPLUG-Owl2 model",
        ),
        (
            lambda values: values["visual_config"]["visual_abstractor"].update(grid_size=32),
            "visual_config.visual_abstractor.grid_size is 32; the vision encoder has 2",
        ),
        (
            lambda values: values["visual_config"]["visual_model"].update(use_cls_token=False),
            "visual_config.visual_model.use_cls_token is False; owl_jax's mPLUG-Owl2 has True",
        ),
        (lambda values: values.update(tie_word_embeddings=True), "tie_word_embeddings is True"),
        (
            lambda values: values["visual_config"]["visual_abstractor"].update(
                num_learnable_queries="8"
            ),
            "visual_config.visual_abstractor.num_learnable_queries is '8'; expected",
        ),
    ],
)
def test_an_unsuitable_config_is_one_line(edit, message, tmp_path):
    with pytest.raises(UserError) as caught:
        owl_jax.load(edited(tmp_path / "model", edit), "float32")
    assert message in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("config_of", "weights_of", "types"),
    [
        (CASE, golden.GOLDENS / golden.LLAMA, ("mplug_owl2", "mplug-owl")),
        (golden.GOLDENS / golden.LLAMA, CASE, ("mplug-owl", "mplug_owl2")),
    ],
)
def test_weights_of_another_family_are_one_line(config_of, weights_of, types, tmp_path):
    shutil.copy(config_of / "config.json", tmp_path)
    shutil.copy(weights_of / "model.safetensors", tmp_path)
    with pytest.raises(UserError) as caught:
        owl_jax.load(tmp_path, "float32")
    assert str(caught.value) == (
        f"{tmp_path}: config.json has model_type '{types[0]}', but the weights are those of "
        f"'{types[1]}'; copy both from the same model"
    )


def test_parts_of_no_family_have_no_hugging_face_format(owl, tmp_path):
    config = dataclasses.replace(owl.config, llm=golden.model(golden.LLAMA)[0].llm)
    with pytest.raises(UserError, match="no Hugging Face format for a model of clip, owl2_abstr"):
        save_model(tmp_path / "saved", config, owl.params, "huggingface")
    assert not list(tmp_path.iterdir())


def test_adapters_of_both_modalities_go_out_and_come_back(owl, tmp_path):
    lora = LoraConfig(rank=2, alpha=4.0, targets=ADAPTED)
    config = dataclasses.replace(owl.config, lora=lora)
    random = np.random.default_rng(0)
    factors = jax.tree.map(
        lambda x: random.normal(0, 0.3, x.shape).astype(np.float32), abstract_params(config)["lora"]
    )
    assert factors["layers"].keys() == set(ADAPTED)
    save_model(tmp_path / "peft", config, {**owl.params, "lora": factors}, "peft")
    names = set(load_file(tmp_path / "peft" / WEIGHTS_FILE))
    module = "base_model.model.model.layers.1.self_attn"
    for path in ("q_proj", "k_proj.multiway.0", "v_proj.multiway.1"):
        assert f"{module}.{path}.lora_A.weight" in names
    read_config, read = read_adapter(tmp_path / "peft", owl.config, np.float32)
    assert read_config == dataclasses.replace(lora, targets=read_config.targets)
    assert set(read_config.targets) == set(ADAPTED)
    for path, value in flatten_dict(factors).items():
        np.testing.assert_array_equal(flatten_dict(read)[path], value)

    given = golden.inputs(golden.OWL2)
    ids, images = given["greedy_input_ids"], given["images"][:1]
    merged = {**owl.params, "llm": merge(owl.params["llm"], factors, lora)}
    adapted = logits(config, {**owl.params, "lora": factors}, ids, images)
    np.testing.assert_allclose(adapted, logits(owl.config, merged, ids, images), atol=1e-4)
    plain = logits(owl.config, owl.params, ids, images)
    assert np.abs(adapted - plain).max() > 0.1


def test_a_list_of_multiway_modules_is_read_as_peft_reads_it(owl, tmp_path):
    lora = LoraConfig(rank=2, alpha=4.0, targets=("k_proj", "visual_v_proj"))
    config = dataclasses.replace(owl.config, lora=lora)
    factors = jax.tree.map(lambda x: np.ones(x.shape, np.float32), abstract_params(config)["lora"])
    save_model(tmp_path / "peft", config, {**owl.params, "lora": factors}, "peft")
    path = tmp_path / "peft" / "adapter_config.json"
    values = json.loads(path.read_text())
    values["target_modules"] = ["k_proj.multiway.0", "v_proj.multiway.1"]
    path.write_text(json.dumps(values))
    read_config, _ = read_adapter(tmp_path / "peft", owl.config, np.float32)
    assert set(read_config.targets) == {"k_proj", "visual_v_proj"}


def test_positions_are_the_checkpoint_s():
    _, params = golden.model(golden.OWL2)
    layers = params["connector"]["layers"]
    for stored, table in (
        (layers["query_positions"], line_sinusoids(np.arange(8), 32)),
        (layers["key_positions"], grid_sinusoids(5, 32)),
    ):
        np.testing.assert_allclose(stored, np.broadcast_to(table, stored.shape), atol=1e-6)
    assert not np.any(layers["key_positions"][:, 0])
    assert np.all(np.any(grid_sinusoids(4, 32), axis=1))  # without a class token


def test_a_video_is_its_frames(owl):
    config = owl.config
    assert (config.num_tokens("image"), config.num_tokens("video", 4)) == (9, 36)
    images = golden.inputs(golden.OWL2)["images"]
    as_images = np.full((1, 18), -1)
    as_video = np.full((1, 18), -2)
    frames = golden.rows(config, as_video, None, images[:2].transpose(1, 0, 2, 3)[None])
    np.testing.assert_allclose(
        golden.jitted_forward(config, Compute(), owl.params, **frames),
        logits(config, owl.params, as_images, images[:2]),
        atol=1e-5,
    )


def matmul_flops(config, length, slots):
    """FLOPs of the language model's matmuls with weights, counted in the traced program."""

    def run(params, ids, images, index):
        return golden.forward(config, Compute(), params, ids, ids, ids, index, images, logits=False)

    size = config.vision.image_size
    ids = jax.ShapeDtypeStruct((1, length), jnp.int32)
    images = jax.ShapeDtypeStruct((1, slots, size, size, 3), jnp.float32)
    compute = jax.make_jaxpr(run)(abstract_params(config), ids, images, ids)
    return _dots(compute.jaxpr)


def _dots(jaxpr, times=1):
    total = 0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            left = equation.invars[0].aval.shape
            size = math.prod(equation.outvars[0].aval.shape)
            total += 2 * times * size * math.prod(left[i] for i in contracted)
        runs = equation.params["length"] if equation.primitive.name == "scan" else 1
        for inner in jax.extend.core.jaxprs_in_params(equation.params):
            total += _dots(inner, times * runs)
    return total


def test_one_picture_in_2048_tokens_costs_at_most_3_percent_more_than_llama():
    plain = dataclasses.replace(
        MPLUG_OWL2_7B,
        llm=LlamaConfig(rms_norm_eps=1e-5, max_positions=4096),
    )
    work = {config: matmul_flops(config, 2048, 1) for config in (MPLUG_OWL2_7B, plain)}
    assert 1.0 < work[MPLUG_OWL2_7B] / work[plain] <= 1.006


@pytest.mark.parametrize("slots", [0, 1, 4])
def test_a_model_s_flops_are_llama_s(slots):
    """Each token goes through one key and one value projection, as in LLaMA."""
    plain = dataclasses.replace(MPLUG_OWL2_7B, llm=LlamaConfig())
    found = []
    for config in (MPLUG_OWL2_7B, plain):
        shapes = abstract_params(config)
        row = SequenceShape(2048, config.media_lengths(), 448, image_slots=slots)
        found.append(training_flops(config, shapes, assign(shapes, [(".*", "all")], {"all"}), row))
    assert found[0] == found[1]
