import dataclasses

import flax.linen as nn
import golden
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from jax.extend.core import jaxprs_in_params
from safetensors.numpy import load_file

from owl_jax.checkpoint.adapter import WEIGHTS_FILE, write_adapter
from owl_jax.checkpoint.hf_import import abstract_params
from owl_jax.checkpoint.tensors import to_source
from owl_jax.models.compute import Compute
from owl_jax.models.families import family_for
from owl_jax.models.remat import NAMES
from owl_jax.models.stack import unstack
from owl_jax.models.vlm import (
    VisionLanguageModel,
    forward,
    init_params,
    variables,
)

CASES = (golden.LLAMA, golden.BLOOM, golden.BLOOM_6, golden.VIDEO, golden.LORA, golden.OWL2)
# Recorded, but of generation, or of the original's inputs.
OTHER = ("greedy", "masked_labels", "video_attention_mask", "expanded_")
FORWARD_ARRAYS = [
    (case, name) for case in CASES for name in golden.outputs(case) if not name.startswith(OTHER)
]


@pytest.mark.parametrize(("case", "name"), FORWARD_ARRAYS)
def test_recorded_array_is_reproduced(case, name):
    recorded = golden.outputs(case)[name]
    ours = golden.reproduced(case)[name].reshape(recorded.shape)
    np.testing.assert_allclose(ours, recorded, rtol=0, atol=2e-5 if "loss" in name else 1e-4)


@pytest.mark.parametrize("case", [golden.LLAMA, golden.BLOOM, golden.BLOOM_6, golden.OWL2])
def test_recorded_gradients_are_reproduced(case):
    config, _ = golden.model(case)
    fixed = config.connector.FIXED  # buffers in the original
    rows = [
        row
        for row in family_for(config).weight_rows(config)
        if row.target.rpartition("/")[2] not in fixed
    ]
    _assert_gradients(
        {
            tensor.name: tensor.read()
            for tensor in to_source(rows, golden.gradients(case, Compute()))
        },
        load_file(golden.GOLDENS / case / "grads.safetensors"),
    )


def test_recorded_adapter_gradients_are_reproduced(tmp_path):
    config, _ = golden.model(golden.LORA)
    write_adapter(config, golden.gradients(golden.LORA, Compute())["lora"], tmp_path)
    recorded = load_file(golden.GOLDENS / golden.LORA / "grads.safetensors")
    _assert_gradients(
        load_file(tmp_path / WEIGHTS_FILE),
        {name.replace(".default", ""): value for name, value in recorded.items()},
    )


def _assert_gradients(ours, expected, relative=1e-3):
    assert ours.keys() == expected.keys()
    for name, value in expected.items():
        error = np.linalg.norm(ours[name] - value)
        assert error <= relative * np.linalg.norm(value) + 1e-5, name


@pytest.mark.parametrize(
    ("case", "prefix"),
    [(golden.LORA, ""), (golden.BLOOM, ""), (golden.VIDEO, "mixed_"), (golden.OWL2, "textonly_")],
)
def test_unrolled_layers_equal_scanned(case, prefix):
    config, params = golden.model(case)
    args = golden.run_rows(case, prefix)
    logits = golden.jitted_forward(config, Compute(scan_layers=False), unstack(params), **args)
    np.testing.assert_allclose(logits, golden.reproduced(case)[f"{prefix}logits"], atol=1e-4)


@pytest.mark.parametrize("policy", [*NAMES[1:], "save:query,context,lora;offload:input,gate"])
def test_remat_policy_changes_no_gradient(policy):
    _assert_gradients(
        flatten_dict(golden.gradients(golden.LORA, Compute(remat=policy, media_remat=policy))),
        flatten_dict(golden.gradients(golden.LORA, Compute())),
        relative=1e-4,
    )


@pytest.mark.parametrize(
    ("case", "prefix"),
    [(golden.LLAMA, ""), (golden.BLOOM, ""), (golden.VIDEO, "mixed_"), (golden.OWL2, "textonly_")],
)
def test_bfloat16_stays_near_float32(case, prefix):
    config, params = golden.model(case)
    narrow = jax.tree.map(lambda x: x.astype(jnp.bfloat16), params)
    args = golden.run_rows(case, prefix)
    logits = golden.jitted_forward(config, Compute(dtype=jnp.bfloat16), narrow, **args)
    wide = golden.reproduced(case)[f"{prefix}logits"]
    assert logits.dtype == jnp.float32
    assert 0 < np.linalg.norm(logits - wide) < 0.02 * np.linalg.norm(wide)


@pytest.mark.parametrize("case", [golden.LLAMA, golden.BLOOM])
def test_norms_softmax_and_loss_are_float32_in_bfloat16_compute(case):
    config, params = golden.model(case)
    narrow = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, jnp.bfloat16), params)

    def loss(params):
        compute = Compute(dtype=jnp.bfloat16)
        logits = forward(config, compute, params, **golden.run_rows(case))
        return golden.mean_loss(logits, *golden.targets_and_mask(case))

    operands = list(_operands(jax.make_jaxpr(loss)(narrow).jaxpr))
    # Softmax and loss are the only users of exp and log, norms of rsqrt.
    assert {name for name, _ in operands} >= {"exp", "log", "rsqrt", "dot_general"}
    wide = {dtype for name, dtype in operands if name in ("exp", "log", "rsqrt")}
    assert wide == {jnp.dtype("float32")}
    # The matmuls themselves are in bfloat16.
    assert jnp.dtype("bfloat16") in {dtype for name, dtype in operands if name == "dot_general"}


def _operands(jaxpr):
    """(primitive, dtype of its first operand) of every equation, nested ones included."""
    for equation in jaxpr.eqns:
        if equation.invars:
            yield equation.primitive.name, equation.invars[0].aval.dtype
        for inner in jaxprs_in_params(equation.params):
            yield from _operands(inner)


# What the original does wrong with media (two of a kind in a row, rows of different kinds), and
# what rows of fixed shape could do wrong, each in a few positions of the video model.

BOS, WORDS = 1, np.arange(10, 14)


def _span(media_id):
    return np.full(golden.model(golden.VIDEO)[0].num_tokens("image"), media_id)


def _pixels(count, seed=0):
    return np.random.default_rng(seed).normal(size=(count, 3, 28, 28)).astype(np.float32)


def _clips(count, frames=4, seed=0):
    shape = (count, 3, frames, 28, 28)
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@jax.jit
def _embed(params, args):
    config, _ = golden.model(golden.VIDEO)
    model = VisionLanguageModel(config, Compute()).bind(variables(params))
    table = model.media_table(args["images"], args["videos"])
    return model.embed(args["input_ids"], table, args["media_index"])


def _embedded(ids, pixels=None, clips=None):
    """float32[B, L, D] and a function that returns the media vectors of a sequence."""
    config, params = golden.model(golden.VIDEO)
    ids = np.stack(ids)
    embedded = np.asarray(_embed(params, golden.rows(config, ids, pixels, clips)))
    return embedded, lambda row: embedded[row][ids[row] < 0]


def test_two_images_of_a_sequence_keep_their_features():
    pixels = _pixels(2)
    _, media = _embedded([[BOS, *_span(-1), *WORDS, *_span(-1)]], pixels)
    first, second = np.split(media(0), 2)
    for image, features in zip(pixels, (first, second), strict=True):
        _, alone = _embedded([[BOS, *_span(-1)]], image[None])
        np.testing.assert_allclose(features, alone(0), atol=1e-5)
    assert np.abs(first - second).max() > 0.1


def test_two_videos_of_a_sequence_keep_their_features():
    clips = _clips(2)
    _, media = _embedded([[BOS, *_span(-2), *WORDS, *_span(-2)]], None, clips)
    first, second = np.split(media(0), 2)
    for clip, features in zip(clips, (first, second), strict=True):
        _, alone = _embedded([[BOS, *_span(-2)]], None, clip[None])
        np.testing.assert_allclose(features, alone(0), atol=1e-5)
    assert np.abs(first - second).max() > 0.1


def test_video_of_one_frame_is_an_image():
    pixels = _pixels(1)
    _, image = _embedded([[BOS, *_span(-1)]], pixels)
    _, video = _embedded([[BOS, *_span(-2)]], None, pixels[:, :, None])
    np.testing.assert_allclose(image(0), video(0), atol=1e-6)


def test_order_of_frames_matters():
    clips = _clips(1)
    _, forwards = _embedded([[BOS, *_span(-2)]], None, clips)
    _, backwards = _embedded([[BOS, *_span(-2)]], None, clips[:, :, ::-1])
    assert np.abs(forwards(0) - backwards(0)).max() > 1e-3


def test_text_image_and_video_sequences_share_a_batch():
    pixels, clips = _pixels(2), _clips(2)
    text = [BOS, *np.arange(20, 20 + 2 * len(_span(-1)))]
    ids = [
        text,
        [BOS, *_span(-1), *_span(-2)],
        [BOS, *_span(-2), *_span(-1)],
    ]
    embedded, media = _embedded(ids, pixels, clips)
    _, params = golden.model(golden.VIDEO)
    np.testing.assert_array_equal(embedded[0], params["llm"]["embed_tokens"]["embedding"][text])
    for row, ids_alone in ((1, ids[1]), (2, ids[2])):
        which = slice(row - 1, row)
        _, alone = _embedded([ids_alone], pixels[which], clips[which])
        np.testing.assert_allclose(media(row), alone(0), atol=1e-5)
    assert np.abs(media(1) - media(2)).max() > 0.1


def test_no_slots_and_no_media_are_equal():
    config, params = golden.model(golden.VIDEO)
    args = golden.rows(config, np.array([[BOS, *WORDS]]))
    size = config.vision.image_size
    no_slots = {**args, "images": np.zeros((1, 0, size, size, 3), np.uint8)}
    empty_slot = {**args, "images": np.ones((1, 1, size, size, 3), np.uint8)}
    expected = _embed(params, args)
    for other in (no_slots, empty_slot):
        np.testing.assert_array_equal(_embed(params, other), expected)


def test_uint8_pixels_are_normalised():
    config, params = golden.model(golden.VIDEO)
    args = golden.rows(config, np.array([[BOS, *_span(-1)]]), _pixels(1))
    shape = args["images"].shape
    picture = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    normalised = (picture / 255.0 - np.array(config.vision.pixel_mean)) / np.array(
        config.vision.pixel_std
    )
    np.testing.assert_allclose(
        _embed(params, {**args, "images": picture}),
        _embed(params, {**args, "images": normalised.astype(np.float32)}),
        atol=1e-5,
    )


@pytest.mark.parametrize("case", [golden.LLAMA, golden.BLOOM])
def test_padding_on_the_right_changes_nothing(case):
    config, params = golden.model(case)
    given = golden.inputs(case)
    length = int(given["attention_mask"][1].sum())
    args = golden.run_rows(case)
    real = np.arange(args["input_ids"].shape[1]) < length
    padded = {
        **args,
        "input_ids": np.where(real, args["input_ids"], 77),
        "segment_ids": np.broadcast_to(real, args["input_ids"].shape).astype(np.int32),
    }
    assert length < len(real)
    logits = golden.jitted_forward(config, Compute(), params, **{**padded, "key_segments": None})
    recorded = golden.outputs(case)["logits"][1, :length]
    np.testing.assert_allclose(logits[1, :length], recorded, atol=1e-4)


@pytest.mark.parametrize("case", [golden.LLAMA, golden.BLOOM, golden.OWL2])
def test_packed_conversations_do_not_attend_to_each_other(case):
    config, params = golden.model(case)
    given = golden.inputs(case)
    pixels = (given["images"] if case == golden.OWL2 else given["pixel_values"])[:2]
    span = np.full(config.num_tokens("image"), -1)
    one = np.array([BOS, *span, *np.arange(10, 20)])
    two = np.array([BOS, *np.arange(30, 38), *span, *np.arange(40, 43)])
    padding = np.zeros(3, np.int64)

    def packed(*parts):
        """A packed sequence; each conversation has its segment id and positions from 0."""
        args = golden.rows(config, np.concatenate([*parts, padding])[None], pixels)
        positions = [np.arange(len(part)) for part in (*parts, padding)]
        segments = [np.full(len(part), i + 1) for i, part in enumerate(parts)] + [padding]
        args["positions"] = np.concatenate(positions)[None].astype(np.int32)
        args["segment_ids"] = np.concatenate(segments)[None].astype(np.int32)
        return {**args, "key_segments": None}

    together = golden.jitted_forward(config, Compute(), params, **packed(one, two))
    for part, start, images in ((one, 0, pixels[:1]), (two, len(one), pixels[1:])):
        args = golden.rows(config, part[None], images)
        alone = golden.jitted_forward(config, Compute(), params, **args)
        np.testing.assert_allclose(together[0, start : start + len(part)], alone[0], atol=1e-4)


def test_attention_is_causal():
    config, params = golden.model(golden.LLAMA)
    args = golden.run_rows(golden.LLAMA)
    ids = args["input_ids"].copy()
    ids[:, -1] = 99
    changed = golden.jitted_forward(config, Compute(), params, **{**args, "input_ids": ids})
    recorded = golden.outputs(golden.LLAMA)["logits"]
    np.testing.assert_allclose(changed[:, :-1], recorded[:, :-1], atol=1e-4)
    assert np.abs(changed[:, -1] - recorded[:, -1]).max() > 0.1


def test_dropout_needs_a_key():
    config, params = golden.model(golden.LORA)
    config = dataclasses.replace(config, lora=dataclasses.replace(config.lora, dropout=0.5))
    args = golden.run_rows(golden.LORA)
    run = lambda key: golden.jitted_forward(  # noqa: E731
        config, Compute(), params, **args, dropout_key=key
    )
    still = run(None)
    np.testing.assert_allclose(still, golden.outputs(golden.LORA)["logits_adapter"], atol=1e-4)
    dropped = run(jax.random.key(0))
    assert np.abs(dropped - still).max() > 0.1
    np.testing.assert_array_equal(run(jax.random.key(0)), dropped)
    assert np.abs(run(jax.random.key(1)) - dropped).max() > 0.1


@pytest.mark.parametrize(
    "case", [golden.LLAMA, golden.BLOOM, golden.VIDEO, golden.LORA, golden.OWL2]
)
def test_tree_has_a_subtree_per_partition_and_a_name_per_dimension(case):
    config, params = golden.model(case)
    boxed = jax.eval_shape(lambda key: init_params(config, Compute(), key), jax.random.key(0))
    subtrees = {"vision", "connector", "llm"} | ({"lora"} if config.lora else set())
    assert boxed.keys() == abstract_params(config).keys() == subtrees
    shapes = {path: leaf.shape for path, leaf in flatten_dict(abstract_params(config)).items()}
    assert shapes == {path: leaf.shape for path, leaf in flatten_dict(params).items()}
    names = flatten_dict(nn.get_partition_spec(boxed))
    assert names.keys() == shapes.keys()
    for path, shape in shapes.items():
        assert len(names[path]) == len(shape), path
        assert (names[path][0] == "layers") == ("layers" in path), path
