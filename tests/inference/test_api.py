import dataclasses
import io
import json
import shutil
import subprocess
import sys

import golden
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sentencepiece
import tiny
from PIL import Image

import owl_jax
from owl_jax.errors import UserError
from owl_jax.inference.api import Owl
from owl_jax.parallel.mesh import make_mesh
from owl_jax.text.conversation import tokenize_prompt

QUESTION = "Say it.\nHuman: What do you see?\nAI: "
ABOUT_IMAGE = [
    {"role": "system", "content": "Say it."},
    {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What?"}]},
]


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return tiny.write_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def owl(directory):
    return owl_jax.load(directory, "float32")


def load_golden(case, **arguments):
    return owl_jax.load(golden.GOLDENS / case, "float32", **arguments)


@pytest.fixture(scope="module")
def adapted():
    return load_golden(golden.LLAMA, adapter=golden.GOLDENS / golden.LORA)


def channels_last(pixels):
    return np.moveaxis(pixels, 1, -1)


def lora_logits(owl):
    given = golden.inputs(golden.LORA)
    return owl.logits(given["input_ids"], channels_last(given["pixel_values"]))


def assert_same_tree(got, expected):
    assert jax.tree.structure(got) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


def test_import_is_light():
    code = "import sys, owl_jax; sys.exit('jax' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_logits_with_and_without_mask():
    owl = load_golden(golden.LLAMA)
    given, expected = golden.inputs(golden.LLAMA), golden.outputs(golden.LLAMA)
    images = channels_last(given["pixel_values"])
    logits = owl.logits(given["input_ids"], images)
    assert logits.dtype == jnp.float32
    np.testing.assert_allclose(logits, expected["logits"], atol=1e-4)
    np.testing.assert_allclose(
        owl.logits(given["input_ids"], images, attention_mask=given["attention_mask"]),
        expected["logits_with_attention_mask"],
        atol=1e-4,
    )


def test_logits_of_a_picture_and_a_video():
    given = golden.inputs(golden.VIDEO)
    logits = load_golden(golden.VIDEO).logits(
        given["mixed_input_ids"],
        channels_last(given["mixed_pixel_values"]),
        channels_last(given["mixed_video_pixel_values"]),
    )
    np.testing.assert_allclose(logits, golden.outputs(golden.VIDEO)["mixed_logits"], atol=1e-4)


def test_bfloat16_is_near_float32():
    owl = owl_jax.load(golden.GOLDENS / golden.LLAMA)
    assert {leaf.dtype for leaf in jax.tree.leaves(owl.params)} == {jnp.dtype("bfloat16")}
    given = golden.inputs(golden.LLAMA)
    logits = owl.logits(given["input_ids"], channels_last(given["pixel_values"]))
    expected = golden.outputs(golden.LLAMA)["logits"]
    assert np.linalg.norm(logits - expected) < 0.02 * np.linalg.norm(expected)


def test_adapter_is_read_and_merged_when_saved(adapted, tmp_path):
    expected = golden.outputs(golden.LORA)["logits_adapter"]
    np.testing.assert_allclose(lora_logits(adapted), expected, atol=1e-4)
    adapted.save(tmp_path / "merged")
    merged = owl_jax.load(tmp_path / "merged", "float32")
    assert "lora" not in merged.params
    assert merged.config == dataclasses.replace(adapted.config, lora=None)
    np.testing.assert_allclose(lora_logits(merged), expected, atol=1e-4)


def test_own_format_keeps_adapter_and_bits(adapted, tmp_path):
    adapted.save(str(tmp_path / "own"), format="orbax")
    loaded = owl_jax.load(tmp_path / "own", "float32")
    assert loaded.config == adapted.config
    assert_same_tree(loaded.params, adapted.params)
    # The same directory as an adapter for the base alone.
    again = load_golden(golden.LLAMA, adapter=tmp_path / "own")
    assert again.config == adapted.config
    assert_same_tree(again.params, adapted.params)
    with pytest.raises(UserError, match="holds an adapter already"):
        owl_jax.load(tmp_path / "own", "float32", golden.GOLDENS / golden.LORA)


def test_mesh_gives_the_same():
    mesh = make_mesh(data=2, fsdp=2, tensor=2)
    alone, spread = load_golden(golden.LLAMA), load_golden(golden.LLAMA, mesh=mesh)
    kernel = spread.params["llm"]["layers"]["gate_proj"]["kernel"]
    assert kernel.addressable_shards[0].data.size * 4 == kernel.size
    ids = np.arange(40).reshape(4, 10)
    np.testing.assert_allclose(spread.logits(ids), alone.logits(ids), atol=1e-4)
    # Three rows cannot be divided among devices.
    np.testing.assert_array_equal(
        spread.generate(ids[:3], max_new_tokens=6, eos_token_id=-1),
        alone.generate(ids[:3], max_new_tokens=6, eos_token_id=-1),
    )


@pytest.mark.parametrize("sampling", [{}, {"temperature": 0.5, "top_k": 50, "seed": 4}])
def test_chat_is_generate_in_words(owl, sampling):
    ids = tokenize_prompt(QUESTION, owl.tokenizer, owl.config.media_lengths(), as_trained=True)
    tokens = owl.generate(ids[None], max_new_tokens=20, **sampling)[0]
    expected = owl.tokenizer.decode(tokens)
    assert len(expected) > 20
    assert owl.chat(QUESTION, max_new_tokens=20, **sampling) == expected
    pieces = list(owl.chat(QUESTION, stream=True, max_new_tokens=20, **sampling))
    assert len(pieces) > 10
    assert "".join(pieces) == expected


def test_chat_stops_at_the_end_mark(owl, directory):
    ids = tokenize_prompt(QUESTION, owl.tokenizer, owl.config.media_lengths(), as_trained=True)
    tokens = owl.generate(ids[None], max_new_tokens=20)[0]
    # Wherever the sixth token was the likeliest, the end mark is now.
    kernel = owl.params["llm"]["lm_head"]["kernel"]
    kernel = kernel.at[:, owl.tokenizer.eos_id].set(1.01 * kernel[:, tokens[5]])
    llm = {**owl.params["llm"], "lm_head": {"kernel": kernel}}
    brief = Owl(owl.config, {**owl.params, "llm": llm}, tokenizer_source=directory)
    end = tokens.tolist().index(tokens[5])
    assert end > 0
    assert brief.chat(QUESTION, max_new_tokens=20) == owl.tokenizer.decode(tokens[:end])


def test_the_tokenizers_end_mark_wins_over_the_configs(owl, directory, tmp_path):
    ids = tokenize_prompt(QUESTION, owl.tokenizer, owl.config.media_lengths(), as_trained=True)
    tokens = owl.generate(ids[None], max_new_tokens=20, eos_token_id=-1)[0]
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(directory / "tokenizer.model"))
    shutil.copy(directory / "tokenizer.model", tmp_path)
    names = {"eos_token": pieces.id_to_piece(int(tokens[5]))}
    (tmp_path / "special_tokens_map.json").write_text(json.dumps(names))
    renamed = Owl(owl.config, owl.params, tokenizer_source=tmp_path)
    assert renamed.tokenizer.eos_id == tokens[5] != owl.config.llm.eos_token_id
    end = tokens.tolist().index(tokens[5])
    assert renamed.chat(QUESTION, max_new_tokens=20) == owl.tokenizer.decode(tokens[:end])
    written = renamed.generate(ids[None], max_new_tokens=20)[0]
    assert (written[end + 1 :] == owl.config.llm.pad_token_id).all()
    without = Owl(owl.config, owl.params, tokenizer_source=tmp_path / "none")
    assert without.generate(ids[None], max_new_tokens=20).tolist() == [tokens.tolist()]


def test_a_question_that_cannot_fit_is_not_tokenised(owl):
    with pytest.raises(UserError, match=r"5,000,\d+ characters and leaves no room"):
        owl.chat([{"role": "user", "content": "what " * 1_000_000}])


def test_released_models_get_the_originals_prompts(owl, tmp_path):
    owl.save(tmp_path / "released")
    ours = owl_jax.load(tmp_path / "released", "float32")
    assert ours.chat(QUESTION, max_new_tokens=9) == owl.chat(QUESTION, max_new_tokens=9)
    values = json.loads((tmp_path / "released" / "config.json").read_text())
    assert values.pop("as_trained") is True
    (tmp_path / "released" / "config.json").write_text(json.dumps(values))
    released = owl_jax.load(tmp_path / "released", "float32")
    ids = tokenize_prompt(QUESTION, owl.tokenizer, owl.config.media_lengths())
    tokens = released.generate(ids[None], max_new_tokens=9, eos_token_id=-1)[0]
    answer = released.chat(QUESTION, max_new_tokens=9)
    assert owl.tokenizer.decode(tokens).startswith(answer)
    assert answer != owl.chat(QUESTION, max_new_tokens=9)


def test_pictures_in_every_form(owl, tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (30, 40, 3), np.uint8)
    picture = Image.fromarray(noise)
    picture.save(tmp_path / "noise.png")

    def answer(images):
        return owl.chat(ABOUT_IMAGE, images, max_new_tokens=20)

    expected = answer([picture])
    assert answer([str(tmp_path / "noise.png")]) == expected
    assert answer(noise[None]) == expected
    assert answer(picture) == expected
    assert answer(noise) == answer(jnp.asarray(noise)) == expected
    assert answer(io.BytesIO((tmp_path / "noise.png").read_bytes())) == expected
    inside = [{"type": "image", "image": picture}, {"type": "text", "text": "What?"}]
    messages = [ABOUT_IMAGE[0], {"role": "user", "content": inside}]
    assert owl.chat(messages, max_new_tokens=20) == expected
    assert answer(Image.new("RGB", (40, 30), "red")) != expected


def test_videos(owl, tmp_path):
    for n, colour in enumerate(("red", "blue")):
        Image.new("RGB", (30, 30), colour).save(tmp_path / f"{n}.png")
    text = "<|video|> What?\nAI: "
    there = owl.chat(text, videos=[tmp_path], max_new_tokens=20)
    back = owl.chat(text, videos=[[tmp_path / "1.png", tmp_path / "0.png"]], max_new_tokens=20)
    assert there != back


def test_answer_ends_with_the_last_position(owl):
    longest = owl.chat(QUESTION, max_new_tokens=10_000)
    assert longest.startswith(owl.chat(QUESTION, max_new_tokens=20).rstrip("\ufffd"))


def test_bloom_has_a_bound_too():
    bloom = load_golden(golden.BLOOM)
    with pytest.raises(UserError, match=r"max_new_tokens is 1000000000000, .* room for 16382"):
        bloom.generate([[1, 2]], max_new_tokens=10**12)


def test_generate_in_chunks_is_generate_at_once(owl):
    whole = owl.generate([[1, 2, 3]], max_new_tokens=50, eos_token_id=-1)
    for length in (1, 16, 17, 18):
        part = owl.generate([[1, 2, 3]], max_new_tokens=length, eos_token_id=-1)
        np.testing.assert_array_equal(part, whole[:, :length])


def test_halves_of_characters_are_replaced(owl):
    assert owl.chat("A\ud800?\nAI: ", max_new_tokens=5) == owl.chat(
        "A\ufffd?\nAI: ", max_new_tokens=5
    )


def test_chat_needs_a_fitting_tokenizer(directory, tmp_path):
    owl = load_golden(golden.LLAMA)
    with pytest.raises(UserError, match="found neither tokenizer"):
        owl.chat(QUESTION)
    with pytest.raises(UserError, match="no tokenizer"):
        Owl(owl.config, owl.params).chat(QUESTION)
    with pytest.raises(UserError, match="340 pieces, the model 128"):
        Owl(owl.config, owl.params, tokenizer_source=directory).chat(QUESTION)


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda owl: owl.chat([]), "conversation is empty"),
        (lambda owl: owl.chat([{"role": "judge", "content": "?"}]), "judge"),
        (lambda owl: owl.chat(ABOUT_IMAGE), r"1 <image>, but 0 image\(s\)"),
        (lambda owl: owl.chat(QUESTION, ["owl.png"]), r"0 <image>, but 1 image\(s\)"),
        (lambda owl: owl.chat(ABOUT_IMAGE, ["owl.png"], stream=True), "owl.png: no such file"),
        (lambda owl: owl.chat(ABOUT_IMAGE, [np.zeros((3, 8, 8))]), r"float64\[3, 8, 8\]"),
        (lambda owl: owl.chat("x" * 400), "leaves no room .* 192"),
        (lambda owl: owl.chat(QUESTION, max_new_tokens=0), "max_new_tokens is 0"),
        (lambda owl: owl.chat(QUESTION, temperature=-1), "temperature"),
        (lambda owl: owl.generate([[1, 2]], max_new_tokens=191), "room for 190"),
        (lambda owl: owl.generate(np.ones((1, 192), int)), "leaves no room"),
        (lambda owl: owl.chat("x" * 2_000_000), "2,000,000 characters .* leaves no room"),
        (lambda owl: owl.chat(QUESTION, stream="yes"), "stream is 'yes'"),
        (lambda owl: owl.chat(QUESTION, max_new_tokens="5"), "max_new_tokens is '5'"),
        (lambda owl: owl.chat(QUESTION, max_new_tokens=True), "max_new_tokens is True"),
        (lambda owl: owl.chat(QUESTION, seed=10**30), "seed is"),
        (lambda owl: owl.chat(QUESTION, num_frames=10**9), "num_frames is 1000000000"),
        (lambda owl: owl.chat([{"role": "tool", "content": "?"}]), "tool"),
        (lambda owl: owl.chat([{"role": "user", "content": None}]), "None"),
        (lambda owl: owl.chat([{"role": "user", "content": []}]), "empty"),
        (lambda owl: owl.chat(None), "NoneType"),
        (lambda owl: owl.generate([[1, 2]], eos_token_id=10**12), "eos_token_id is"),
        (lambda owl: owl.generate([[1, 2]], max_new_tokens=2.5), "max_new_tokens is 2.5"),
        (lambda owl: owl.generate([[1, 2], [3]]), "input_ids is not an array"),
        (lambda owl: owl.save(tiny.__file__), "exists already"),
        (lambda owl: owl.save("x", format="gguf"), "format 'gguf'"),
    ],
)
def test_wrong_use(owl, call, named):
    with pytest.raises(UserError, match=named):
        call(owl)


def test_wrong_loading(directory, tmp_path):
    with pytest.raises(UserError, match="float16"):
        owl_jax.load(directory, "float16")
    with pytest.raises(UserError, match=r"no config\.json"):
        owl_jax.load(tmp_path)
    with pytest.raises(UserError, match=r"no adapter_config\.json"):
        owl_jax.load(directory, adapter=tmp_path)
    with pytest.raises(UserError, match=r"is no adapter: it has .* but no lora"):
        owl_jax.load(directory, adapter=directory)
    with pytest.raises(UserError, match=r"is no adapter: it has .* but no lora"):
        owl_jax.load(directory, adapter=golden.GOLDENS / golden.LLAMA)
