"""The recorded greedy runs of the original, one by one and as padded batches."""

import functools
import re

import golden
import jax
import numpy as np
import pytest

import owl_jax
from owl_jax.inference.core import (
    decode_steps,
    make_rows,
    prefill,
    start_batch,
)
from owl_jax.inference.layouts import quickest_form
from owl_jax.inference.prompt import BUCKET, prompt_arrays
from owl_jax.inference.sampling import Sampling, row_keys
from owl_jax.models.compute import Compute

RUNS = "case02_image_llama_generate"
STEPS = 16


@functools.cache
def load(case):
    if case == golden.LORA:
        return owl_jax.load(golden.GOLDENS / golden.LLAMA, "float32", golden.GOLDENS / golden.LORA)
    return owl_jax.load(golden.GOLDENS / (golden.LLAMA if case == RUNS else case), "float32")


def recorded(case, run):
    """(arguments of generate, the new tokens, their scores or None)."""
    given, results = golden.inputs(case), golden.outputs(case)
    arguments = {"input_ids": given[f"{run}_input_ids"]}
    pixels = given.get(f"{run}_pixel_values")
    if pixels is not None:
        media = "images" if pixels.ndim == 4 else "videos"
        arguments[media] = np.moveaxis(pixels, 1, -1)
    return arguments, results[f"{run}_sequences"][:, 1:], results.get(f"{run}_scores")


def step_by_step(owl, eos_id=-1, **arguments):
    """(tokens, scores) of STEPS greedy steps, each a call of its own."""
    compute, params = quickest_form(Compute(), owl.params)
    state, first, prefilled = begun(owl, compute, params, eos_id, **arguments)
    tokens, scores = [np.array(first)], [jax.nn.log_softmax(prefilled.logits)]
    vocabulary = owl.config.llm.vocab_size
    for _ in range(1, STEPS):
        state, found = decode_steps(owl.config, compute, params, state, 1, None, vocabulary)
        tokens.append(np.array(found.ids[0]))
        order = np.argsort(found.top_ids[0], axis=-1)
        scores.append(np.take_along_axis(np.array(found.top_logprobs[0]), order, axis=-1))
    return np.stack(tokens, axis=1), np.stack(scores, axis=1)


def begun(owl, compute, params, eos_id=-1, **arguments):
    """(the state after prefill, the first tokens, what prefill returned)."""
    prompt = prompt_arrays(owl.config, **arguments)
    B, L = prompt.input_ids.shape
    rows = make_rows(owl.config, [Sampling()] * B, row_keys(0, B), [[eos_id]] * B, [STEPS] * B)
    prefilled = prefill(owl.config, compute, params, prompt)
    state, first = start_batch(prefilled, prompt.lengths, rows, L + BUCKET)
    return state, first, prefilled


def padded(prompts, side):
    """Prompts of one row each as one batch, padded with a token of meaning."""
    length = max(prompt.shape[1] for prompt in prompts)
    ids, mask = np.full((len(prompts), length), 5), np.zeros((len(prompts), length))
    for row, prompt in enumerate(prompts):
        n = prompt.shape[1]
        where = slice(length - n, length) if side == "left" else slice(n)
        ids[row, where], mask[row, where] = prompt[0], 1
    return ids, mask


@pytest.mark.parametrize(
    ("case", "run"),
    [
        (RUNS, "greedy1"),
        (RUNS, "greedy_batch2"),
        (RUNS, "greedy_2images"),
        (RUNS, "greedy_textonly"),
        (golden.BLOOM, "greedy1"),
        (golden.VIDEO, "greedy_video"),
        (golden.LORA, "greedy1"),
    ],
)
def test_greedy_is_the_originals(case, run):
    arguments, tokens, scores = recorded(case, run)
    owl = load(case)
    np.testing.assert_array_equal(
        owl.generate(**arguments, max_new_tokens=STEPS, eos_token_id=-1), tokens
    )
    if scores is not None:
        stepped, ours = step_by_step(owl, **arguments)
        np.testing.assert_array_equal(stepped, tokens)
        np.testing.assert_allclose(ours, jax.nn.log_softmax(scores), atol=1e-4)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("case", [RUNS, golden.BLOOM, golden.BLOOM_6])
def test_padded_batch_gives_what_each_prompt_gives_alone(case, side):
    """One picture and no picture, 22 tokens and 13 or 10; alone is what the original recorded."""
    runs = [recorded(case, run) for run in ("greedy1", "greedy_textonly")]
    ids, mask = padded([arguments["input_ids"] for arguments, _, _ in runs], side)
    tokens, scores = step_by_step(
        load(case), input_ids=ids, attention_mask=mask, images=runs[0][0]["images"]
    )
    for row, (_, expected_tokens, expected_scores) in enumerate(runs):
        np.testing.assert_array_equal(tokens[row], expected_tokens[0])
        np.testing.assert_allclose(scores[row], jax.nn.log_softmax(expected_scores[0]), atol=1e-4)


def test_the_originals_right_padding_flaw_is_not_copied():
    given = golden.inputs(RUNS)
    ids, mask = given["ref_rightpad_batch_input_ids"], given["ref_rightpad_batch_attention_mask"]
    images = np.moveaxis(given["ref_rightpad_batch_pixel_values"], 1, -1)
    short = int(mask.sum(axis=1).argmin())
    length = int(mask[short].sum())
    assert length < ids.shape[1]
    owl = load(RUNS)
    batch = owl.generate(ids, images, None, mask, STEPS, eos_token_id=-1)
    alone = owl.generate(
        ids[short : short + 1, :length],
        images[short : short + 1],
        max_new_tokens=STEPS,
        eos_token_id=-1,
    )
    np.testing.assert_array_equal(batch[short], alone[0])
    flawed = golden.outputs(RUNS)["ref_rightpad_batch_sequences"][short, 1:]
    assert (batch[short] != flawed).any()


def test_rows_stop_at_eos_and_are_padded():
    arguments, recorded_tokens, _ = recorded(RUNS, "eos_stop")
    eos_id = int(golden.inputs(RUNS)["eos_stop_eos_token_id"])
    owl = load(RUNS)
    tokens = owl.generate(**arguments, max_new_tokens=STEPS, eos_token_id=eos_id)
    steps = recorded_tokens.shape[1]
    np.testing.assert_array_equal(tokens[:, :steps], recorded_tokens)
    assert tokens.shape == (2, STEPS)
    assert (tokens[:, steps:] == owl.config.llm.pad_token_id).all()


def test_a_row_that_ended_leaves_the_others_alone():
    arguments, expected, _ = recorded(RUNS, "greedy_batch2")
    eos_id = next(int(token) for token in expected[0] if token not in expected[1])
    end = expected[0].tolist().index(eos_id)
    tokens = load(RUNS).generate(**arguments, max_new_tokens=STEPS, eos_token_id=eos_id)
    np.testing.assert_array_equal(tokens[0, : end + 1], expected[0, : end + 1])
    assert not tokens[0, end + 1 :].any()
    np.testing.assert_array_equal(tokens[1], expected[1])


def test_one_program_for_prompts_of_a_bucket_and_all_settings():
    owl = load(RUNS)

    def run(length, new, **settings):
        ids = np.arange(length)[None] % 100
        return owl.generate(ids, max_new_tokens=new, temperature=1.0, eos_token_id=-1, **settings)

    run(9, 5, top_k=50, top_p=0.9, seed=0)
    compiled = prefill._cache_size(), decode_steps._cache_size()
    first = run(60, 40, top_k=40, top_p=0.95, seed=1)
    np.testing.assert_array_equal(run(60, 40, top_k=40, top_p=0.95, seed=1), first)
    assert (run(60, 40, top_k=40, top_p=0.95, seed=2) != first).any()
    assert (prefill._cache_size(), decode_steps._cache_size()) == compiled


@pytest.mark.parametrize("case", [RUNS, golden.BLOOM])
def test_unrolled_cache_is_written_in_place(case):
    """The compiler finds an order in which all layers have read before one is written."""
    owl = load(case)
    compute, params = quickest_form(Compute(), owl.params)
    state, _, _ = begun(owl, compute, params, input_ids=np.full((3, 7), 5))
    shape = ",".join(map(str, state.cache[0]["k"].shape))
    text = decode_steps.lower(owl.config, compute, params, state, 9).compile().as_text()
    written = re.findall(rf"= f32\[{shape}\]\S* ([a-z-]+)\(", text)
    # By XLA's flags a scatter of one token is a scatter or an update of a slice.
    writes = written.count("scatter") + written.count("dynamic-update-slice")
    assert writes == 2 * owl.config.llm.num_layers
    assert "copy" not in written


def test_unrolled_weights_are_no_copy():
    params = load(RUNS).params
    compute, unrolled = quickest_form(Compute(), params)
    assert not compute.scan_layers
    kernel = params["llm"]["layers"]["gate_proj"]["kernel"]
    layer = unrolled["llm"]["layer_1"]["gate_proj"]["kernel"]
    np.testing.assert_array_equal(layer, kernel[1])
    start = kernel.unsafe_buffer_pointer()
    assert layer.unsafe_buffer_pointer() == start + kernel.nbytes // 2
