"""Continuous batching: every request gets the answer that it gets alone."""

import dataclasses
import functools
import threading
import time
import weakref

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import owl_jax
from owl_jax.checkpoint.model_directory import save_model
from owl_jax.errors import UserError
from owl_jax.inference import core, device_rows
from owl_jax.inference import engine as engine_module
from owl_jax.inference.api import Owl, PromptTooLong
from owl_jax.inference.engine import Engine
from owl_jax.inference.generate import Batch, generate
from owl_jax.inference.prompt import Prompt
from owl_jax.inference.requests import ChatPrompt, Finished, QueueFull, Request, Tokens
from owl_jax.inference.rows import Job
from owl_jax.inference.sampling import Sampling
from owl_jax.models.compute import Compute
from owl_jax.models.config import OwlConfig
from owl_jax.models.connectors.abstractor import AbstractorConfig
from owl_jax.models.language.bloom import BloomConfig
from owl_jax.models.language.llama import LlamaConfig
from owl_jax.models.language.owl2 import Owl2LlamaConfig
from owl_jax.models.lora import LoraConfig
from owl_jax.models.vision.clip import ClipConfig
from owl_jax.models.vlm import abstract_params
from owl_jax.parallel.mesh import make_mesh
from owl_jax.parallel.sharding import LogicalRules, on_mesh, param_shardings
from owl_jax.text.media_index import index_media

FRAMES = 2
LANGUAGE = {
    "llama": LlamaConfig(97, 32, 64, 2, num_heads=4, num_kv_heads=2, max_positions=512),
    "bloom": BloomConfig(97, 32, num_layers=2, num_heads=4),
    "owl2": Owl2LlamaConfig(97, 32, 64, 2, num_heads=4, num_kv_heads=2, max_positions=512),
}


def make_owl(llm="llama", mesh=None, cache_dtype="auto"):
    config = OwlConfig(
        vision=ClipConfig(28, 14, 16, 32, num_layers=1, num_heads=2, temporal=True),
        connector=AbstractorConfig(6, 16, 32, num_layers=1, num_heads=2, temporal=True),
        llm=LANGUAGE[llm],
    )
    random = np.random.default_rng(0)
    boxed = abstract_params(config)
    shardings = None if mesh is None else param_shardings(boxed, mesh, LogicalRules())

    def draw(leaf):
        return random.normal(0, 1.5 * leaf.shape[-1] ** -0.5, leaf.shape).astype(np.float32)

    params = jax.tree.map(draw, nn.meta.unbox(boxed))
    params = jax.device_put(params, shardings)
    return Owl(config, params, mesh=mesh, cache_dtype=cache_dtype)


def use_pieces(monkeypatch, *lengths):
    """Prompts of tests are longer than these pieces."""
    for module in (device_rows, engine_module):
        monkeypatch.setattr(module, "PIECES", lengths)


class Answer:
    """A listener that collects its events."""

    def __init__(self):
        self.tokens, self.end, self.done = [], None, threading.Event()

    def __call__(self, event):
        if isinstance(event, Tokens):
            self.tokens += event.tokens
        else:
            assert isinstance(event, Finished) and self.end is None
            self.end = event
            self.done.set()

    @property
    def ids(self):
        return [token.id for token in self.tokens]

    def wait(self, seconds=60):
        assert self.done.wait(seconds)
        return self


def random_request(owl, random, shared=()):
    """A prompt with or without media, which may begin as an earlier one does."""
    pixels = lambda *shape: random.integers(0, 256, (*shape, 28, 28, 3), np.uint8)  # noqa: E731
    ids, images, videos = [], [], []
    if shared and random.random() < 0.4:
        earlier = shared[random.integers(len(shared))]
        ids, images, videos = (list(x) for x in earlier)
    for _ in range(random.integers(1, 4)):
        ids += random.integers(3, 97, random.integers(1, 40)).tolist()
        kind = random.random()
        if kind < 0.3:
            ids += [-1] * owl.num_tokens("image")
            images.append(pixels())
        elif kind < 0.45:
            ids += [-2] * owl.num_tokens("video", FRAMES)
            videos.append(pixels(FRAMES))
    ids += random.integers(3, 97, 2).tolist()
    ids = ids[-200:] if not images and not videos else ids
    is_greedy = random.random() < 0.5
    return Request(
        ChatPrompt(np.asarray(ids, np.int32), images, videos),
        max_new_tokens=int(random.integers(1, 30)),
        sampling=Sampling()
        if is_greedy
        else Sampling.of(
            random.uniform(0.5, 2),
            [None, 5, 40][random.integers(3)],
            [None, 0.5, 0.9][random.integers(3)],
            [1.0, 1.3][random.integers(2)],
            random.uniform(0, 1),
        ),
        seed=int(random.integers(0, 1000)),
        end_ids=(int(random.integers(97)), 96) if random.random() < 0.7 else (),
    )


def alone(owl, request):
    """The tokens that `request` gets without other requests, by `Owl.generate`'s way: one prefill.

    All prompts have the same shape, so that one program serves them.
    """
    prompt, image_slots, video_slots = request.prompt, 8, 4
    ids = np.zeros((1, 256), np.int32)
    ids[0, : len(prompt.input_ids)] = prompt.input_ids
    images = np.zeros((1, image_slots, 28, 28, 3), np.uint8)
    videos = np.zeros((1, video_slots, FRAMES, 28, 28, 3), np.uint8)
    for slots, pixels in ((images, prompt.images), (videos, prompt.videos)):
        for slot, each in enumerate(pixels):
            slots[0, slot] = each
    index = index_media(ids, owl.config.media_lengths(FRAMES), image_slots, video_slots)
    lengths = np.asarray([len(prompt.input_ids)], np.int32)
    arrays = Prompt(np.maximum(ids, 0), index, lengths, images, videos)
    most = 30
    batch = Batch(arrays, most, request.sampling, request.seed, request.end_ids)
    tokens = generate(owl.config, *owl.compiled_form, batch, lambda: on_mesh(owl.mesh, 1))[0]
    tokens = tokens[: request.max_new_tokens].tolist()
    ends = [i for i, token in enumerate(tokens) if token in request.end_ids]
    return tokens[: ends[0] + 1] if ends else tokens


@pytest.fixture(scope="module")
def owl():
    return make_owl()


@pytest.fixture(scope="module")
def engine(owl):
    with Engine(owl, num_rows=4, row_length=256, frames=(FRAMES,)) as engine:
        yield engine


@pytest.mark.parametrize("llm", ["llama", "bloom", "owl2"])
def test_a_random_schedule_gives_what_each_request_gets_alone(llm, monkeypatch):
    """Requests with pictures, videos, text, shared beginnings, cancellations and deadlines."""
    use_pieces(monkeypatch, 64)
    owl, random = make_owl(llm), np.random.default_rng(1)
    shared, requests = [], []
    for _ in range(200 if llm == "llama" else 40):
        request = random_request(owl, random, shared[-4:])
        if len(request.prompt.input_ids) > 220:
            continue
        prompt = request.prompt
        shared.append((prompt.input_ids.tolist(), prompt.images, prompt.videos))
        requests.append(request)
    with Engine(owl, num_rows=5, row_length=256, frames=(FRAMES,), max_waiting=500) as engine:
        answers, cancelled, late = [], set(), set()
        for i, request in enumerate(requests):
            if random.random() < 0.05:
                late.add(i)
                request = dataclasses.replace(request, deadline=time.monotonic())
            answers.append(Answer())
            ticket = engine.submit(request, answers[-1])
            if random.random() < 0.1:
                cancelled.add(i)
                threading.Timer(random.uniform(0, 0.5), ticket.cancel).start()
            if random.random() < 0.3:
                time.sleep(random.uniform(0, 0.03))
        for answer in answers:
            answer.wait(120)
        stats = engine.stats()
    assert stats.compilations == 0
    assert stats.running == stats.waiting == 0 and stats.finished > 0
    assert stats.cached_prompt_tokens > 0 and stats.cached_media > 0
    for i, (request, answer) in enumerate(zip(requests, answers, strict=True)):
        if answer.end.reason in ("cancelled", "deadline"):
            assert i in cancelled | late
            expected = alone(owl, request)
            assert answer.ids == expected[: len(answer.ids)]
            continue
        assert answer.end.reason in ("stop", "length"), __import__("traceback").format_exception(
            answer.end.error
        )
        assert answer.ids == alone(owl, request), i
        ends = answer.ids[-1] in request.end_ids
        assert answer.end.reason == ("stop" if ends else "length")
    assert any(answer.end.reason == "deadline" for answer in answers)


def test_a_mesh_gives_the_same_answers(owl, monkeypatch):
    use_pieces(monkeypatch, 64)
    random = np.random.default_rng(2)
    requests = [random_request(owl, random) for _ in range(12)]
    on_mesh = make_owl(mesh=make_mesh(data=2, fsdp=2, tensor=2))
    with Engine(on_mesh, num_rows=4, row_length=256, frames=(FRAMES,)) as engine:
        answers = [Answer() for _ in requests]
        for request, answer in zip(requests, answers, strict=True):
            engine.submit(request, answer)
        found = [answer.wait(120).ids for answer in answers]
        assert engine.stats().compilations == 0
    assert found == [alone(owl, request) for request in requests]


def conversation(owl, *turns, seed=0):
    """A picture, then the turns' text."""
    random = np.random.default_rng(seed)
    picture = random.integers(0, 256, (28, 28, 3), np.uint8)
    ids = [5, *[-1] * owl.num_tokens("image")]
    for turn in turns:
        ids += turn
    return Request(ChatPrompt(np.asarray(ids, np.int32), [picture]), 6)


def test_the_next_turn_computes_only_what_is_new(owl, engine):
    first = [*range(3, 90)]
    before = engine.stats()
    answer = Answer()
    engine.submit(conversation(owl, first), answer)
    answer.wait()
    assert answer.end.cached_tokens == 0
    # Only the digest of the picture is needed now.
    assert all(span.pixels.size == 0 for row in engine._rows for span in row.run.spans)
    second, request = Answer(), conversation(owl, first, answer.ids, [*range(10, 40)])
    engine.submit(request, second)
    second.wait()
    assert second.end.cached_tokens == 64
    assert second.ids == alone(owl, request)
    after = engine.stats()
    assert after.encoded_media - before.encoded_media == 1
    # The same tokens with another picture share only what precedes it.
    third, request = Answer(), conversation(owl, first, answer.ids, [*range(10, 40)], seed=1)
    engine.submit(request, third)
    third.wait()
    assert third.end.cached_tokens == 0
    assert third.ids == alone(owl, request) != second.ids


def read_at_once(engine, requests, monkeypatch):
    """(the answers to requests that come at the same moment, pieces of each call of the device)"""
    real, calls = device_rows.DeviceRows.prefill, []

    def spy(self, pieces):
        calls.append(len(pieces))
        return real(self, pieces)

    monkeypatch.setattr(device_rows.DeviceRows, "prefill", spy)
    answers, before = [Answer() for _ in requests], engine.stats().compilations
    with engine._changed:  # the engine's thread waits
        for request, answer in zip(requests, answers, strict=True):
            engine.submit(request, answer)
    answers = [answer.wait() for answer in answers]
    assert engine.stats().compilations == before
    return answers, calls


def test_prompts_that_come_together_are_read_together(owl, engine, monkeypatch):
    """Four of up to 64 tokens, one of them with a picture; then two with the same beginning."""
    short = [Request(ChatPrompt(np.arange(3, 20 + n, dtype=np.int32)), 5) for n in (0, 9)]
    different = Request(ChatPrompt(np.arange(40, 90, dtype=np.int32)), 5, Sampling.of(1.5), 7)
    requests = [*short, different, conversation(owl, [*range(60, 80)], seed=5)]
    answers, calls = read_at_once(engine, requests, monkeypatch)
    assert calls == [4]
    assert [answer.ids for answer in answers] == [alone(owl, request) for request in requests]

    begun = np.arange(96, 3, -1, dtype=np.int32)
    engine.submit(Request(ChatPrompt(begun), 2), first := Answer())
    first.wait()
    requests = [
        Request(ChatPrompt(np.concatenate([begun[:64], np.full(70, token, np.int32)])), 5)
        for token in (11, 12)
    ]
    answers, calls = read_at_once(engine, requests, monkeypatch)
    assert calls == [2]
    assert [answer.end.cached_tokens for answer in answers] == [64, 64]
    assert [answer.ids for answer in answers] == [alone(owl, request) for request in requests]


def test_a_prompt_that_waits_for_its_beginning_lets_others_pass(owl, engine, monkeypatch):
    """The second begins as the first does, which is read together with the third."""
    first = np.arange(95, 2, -1, dtype=np.int32)
    prompts = [first, first[:80], np.roll(first, 5)]
    requests = [Request(ChatPrompt(ids), 5) for ids in prompts]
    answers, calls = read_at_once(engine, requests, monkeypatch)
    assert calls == [2, 1]
    assert [answer.end.cached_tokens for answer in answers] == [0, 64, 0]
    assert [answer.ids for answer in answers] == [alone(owl, request) for request in requests]


def test_media_that_fail_end_one_of_the_prompts_that_come_together(owl, engine, monkeypatch):
    texts = [Request(ChatPrompt(np.arange(3, 20 + n, dtype=np.int32)), 5) for n in range(3)]

    def fails(key, pixels):
        raise RuntimeError("no vectors")

    monkeypatch.setattr(engine._media, "vectors", fails)
    requests = [conversation(owl, [*range(60, 80)], seed=6), *texts]
    (broken, *answers), _ = read_at_once(engine, requests, monkeypatch)
    assert broken.end.reason == "error" and str(broken.end.error) == "no vectors"
    assert [answer.ids for answer in answers] == [alone(owl, request) for request in texts]


def test_an_int8_cache_changes_no_answer_where_it_is_found(monkeypatch):
    """A prompt in pieces, in a shared batch, or found in the cache gets what it gets alone."""
    use_pieces(monkeypatch, 64)
    owl = make_owl(cache_dtype="int8")
    first = [conversation(owl, [*range(3, 90)]), conversation(owl, [*range(80, 9, -1)], seed=1)]
    with Engine(owl, num_rows=2, row_length=192, frames=(FRAMES,)) as engine:
        assert {leaf.dtype for leaf in jax.tree.leaves(engine._device._state.cache)} == {
            jnp.dtype("int8"),
            jnp.dtype("float32"),
        }
        answers = [Answer(), Answer()]
        for request, answer in zip(first, answers, strict=True):
            engine.submit(request, answer)
        turn = conversation(owl, [*range(3, 90)], answers[0].wait().ids, [*range(10, 40)])
        answers.append(Answer())
        engine.submit(turn, answers[2])
        found = [answer.wait().ids for answer in answers]
        assert engine.stats().compilations == 0
    assert answers[2].end.cached_tokens == 64
    assert found == [alone(owl, request) for request in (*first, turn)]


def test_several_answers_to_one_prompt_share_its_prefill(owl, engine):
    prompt = ChatPrompt(np.arange(3, 97, dtype=np.int32))
    answers = [Answer() for _ in range(3)]
    for seed, answer in enumerate(answers):
        engine.submit(Request(prompt, 8, Sampling.of(1.5), seed), answer)
    assert [answer.wait().end.cached_tokens for answer in answers][1:] == [64, 64]
    assert len({tuple(answer.ids) for answer in answers}) == 3


def test_logprobs_are_those_of_the_logits(owl, engine):
    prompt = ChatPrompt(np.arange(3, 30, dtype=np.int32))
    answer = Answer()
    engine.submit(Request(prompt, 5, num_logprobs=3), answer)
    answer.wait()
    ids = np.concatenate([prompt.input_ids, answer.ids])
    expected = np.asarray(jax.nn.log_softmax(owl.logits(ids[None])[0]))
    for i, token in enumerate(answer.tokens):
        row = expected[len(prompt.input_ids) - 1 + i]
        np.testing.assert_allclose(token.logprob, row[token.id], atol=1e-4)
        assert [id for id, _ in token.top] == np.argsort(-row)[:3].tolist()
        np.testing.assert_allclose([p for _, p in token.top], np.sort(row)[::-1][:3], atol=1e-4)


def test_no_end_before_the_least_number_of_tokens(owl, engine):
    prompt = ChatPrompt(np.arange(3, 30, dtype=np.int32))
    free = Answer()
    engine.submit(Request(prompt, 9), free)
    ends = tuple(set(free.wait().ids))[:8]
    stopped, longer = Answer(), Answer()
    engine.submit(Request(prompt, 9, end_ids=ends), stopped)
    engine.submit(Request(prompt, 9, end_ids=ends, min_new_tokens=4), longer)
    assert len(stopped.wait().ids) == 1 and stopped.end.reason == "stop"
    assert len(longer.wait().ids) >= 5 and not set(longer.ids[:4]) & set(ends)


def with_adapters(tmp_path, llm="llama"):
    """A model directory, and two adapters of it with different ranks, targets and scales."""
    config = dataclasses.replace(make_owl(llm).config, lora=None)
    base = tmp_path / "base"
    params = make_owl(llm).params
    save_model(base, config, params, "orbax")
    random = np.random.default_rng(3)
    adapters = {}
    for name, rank, alpha, targets in (("one", 4, 8.0, LORA[llm]), ("two", 2, 6.0, LORA[llm][:1])):
        lora = LoraConfig(rank, alpha, 0.0, targets)
        adapted = dataclasses.replace(config, lora=lora)
        shapes = nn.meta.unbox(abstract_params(adapted))["lora"]
        factors = jax.tree.map(
            lambda leaf: random.normal(0, 0.7, leaf.shape).astype(np.float32), shapes
        )
        adapters[name] = tmp_path / name
        save_model(adapters[name], adapted, {**params, "lora": factors}, "peft")
    return base, adapters


LORA = {
    "llama": ("q_proj", "v_proj", "down_proj"),
    "bloom": ("query_key_value", "dense"),
    "owl2": ("q_proj", "visual_k_proj"),
}


@pytest.mark.parametrize("llm", ["llama", "bloom", "owl2"])
def test_rows_with_different_adapters_share_a_batch(llm, tmp_path, monkeypatch):
    use_pieces(monkeypatch, 256)
    base, adapters = with_adapters(tmp_path, llm)
    shared = owl_jax.load(base, "float32", adapters=adapters)
    random = np.random.default_rng(4)
    requests = [random_request(shared, random) for _ in range(4)]
    # The same prompts for each: a row's tokens must not be taken for another adapter's.
    answers = {(name, i): Answer() for name in (None, "one", "two") for i in range(4)}
    with Engine(shared, num_rows=4, row_length=256, frames=(FRAMES,)) as engine:
        assert engine.adapters == ("one", "two")
        for (name, i), answer in answers.items():
            engine.submit(dataclasses.replace(requests[i], adapter=name), answer)
        for answer in answers.values():
            answer.wait()
        assert engine.stats().compilations == 0
    for name in (None, "one", "two"):
        adapter = None if name is None else adapters[name]
        apart = owl_jax.load(base, "float32", adapter)
        for i, request in enumerate(requests):
            assert answers[name, i].ids == alone(apart, request), (name, i)
    different = [{tuple(answers[name, i].ids) for name in (None, "one", "two")} for i in range(4)]
    assert max(map(len, different)) == 3
    # Without a request to choose, the base answers.
    plain = owl_jax.load(base, "float32")
    ids = requests[0].prompt.input_ids[None] * (requests[0].prompt.input_ids > 0)
    np.testing.assert_allclose(shared.logits(ids), plain.logits(ids), atol=1e-5)
    np.testing.assert_array_equal(shared.generate(ids), plain.generate(ids))


def test_adapters_keep_the_dtype_of_the_computation(tmp_path):
    base, adapters = with_adapters(tmp_path)
    shared = owl_jax.load(base, "bfloat16", adapters=adapters)
    compute, params = Compute(dtype=jnp.dtype("bfloat16")), shared.params
    tokens = np.ones((1, 32), np.int32)
    prompt = Prompt(tokens, -tokens, np.asarray([32]), media=np.zeros((1, 32, 32), jnp.bfloat16))
    read = functools.partial(core.prefill, shared.config, compute, adapters=np.ones(1, np.int32))
    found = jax.eval_shape(read, params, prompt)
    assert found.new["k"].dtype == jnp.bfloat16 and found.logits.dtype == np.float32
    allocate = functools.partial(core.empty_state, shared.config, compute)
    state = jax.eval_shape(lambda params: allocate(params, 2, 64), params)
    advance = functools.partial(core.decode_steps, shared.config, compute, steps=1)
    after, _ = jax.eval_shape(lambda params, state: advance(params, state), params, state)
    assert jax.tree.map(lambda leaf: leaf.dtype, after) == jax.tree.map(
        lambda leaf: leaf.dtype, state
    )


class Countdown:
    """Allows one token at a time: 20, 19, 18, ..."""

    def __init__(self, first=20):
        self.next = first

    def allowed(self):
        mask = np.zeros(-(-97 // 32), np.uint32)
        mask[self.next // 32] = 1 << (self.next % 32)
        return mask

    def accept(self, token):
        assert token == self.next
        self.next -= 1
        if self.next == 15:
            raise ValueError("no more")


def test_a_constraint_decides_what_may_come(owl, engine):
    prompt = ChatPrompt(np.arange(3, 30, dtype=np.int32))
    held, free, broken = Answer(), Answer(), Answer()
    engine.submit(Request(prompt, 5, constraint=Countdown()), held)
    engine.submit(Request(prompt, 9), free)
    engine.submit(Request(prompt, 9, constraint=Countdown(17)), broken)
    assert held.wait().ids == [20, 19, 18, 17, 16]
    assert free.wait().ids == alone(owl, Request(prompt, 9))
    assert broken.wait().ids == [17, 16] and broken.end.reason == "error"
    assert str(broken.end.error) == "no more"


class Nothing:
    """Allows no token, after which the sampler has only zeros."""

    def allowed(self):
        return np.zeros(-(-97 // 32), np.uint32)

    def accept(self, token):
        pass


def test_an_end_that_comes_too_early_ends_the_answer_all_the_same(engine):
    prompt = ChatPrompt(np.arange(3, 30, dtype=np.int32))
    answer = Answer()
    request = Request(prompt, 9, min_new_tokens=3, end_ids=(0,), constraint=Nothing())
    engine.submit(request, answer)
    assert answer.wait(20).ids == [0] and answer.end.reason == "stop"


def test_what_cannot_be_answered_is_refused(owl, engine):
    fits = ChatPrompt(np.arange(3, 30, dtype=np.int32))
    video = ChatPrompt(
        np.asarray([-2] * owl.num_tokens("video", 3)), [], [np.zeros((3, 28, 28, 3), np.uint8)]
    )
    with pytest.raises(PromptTooLong, match=r"has 256 tokens .* a row takes 256 tokens"):
        engine.submit(Request(ChatPrompt(np.full(256, 5)), 1), Answer())
    with pytest.raises(UserError, match="a video of 3 frames; expected one of 2"):
        engine.submit(Request(video, 1), Answer())
    with pytest.raises(UserError, match="the tokens of id -1 in input_ids do not match the image"):
        engine.submit(Request(ChatPrompt(np.asarray([5, -1, 5])), 1), Answer())
    with pytest.raises(UserError, match="9 end ids; expected at most 8"):
        engine.submit(Request(fits, 1, end_ids=tuple(range(9))), Answer())
    with pytest.raises(UserError, match="no adapter is called 'x'"):
        engine.submit(Request(fits, 1, adapter="x"), Answer())
    with pytest.raises(UserError, match="num_logprobs is 21; expected 0 to 20"):
        engine.submit(Request(fits, 1, num_logprobs=21), Answer())
    with pytest.raises(UserError, match="max_new_tokens is 0; expected at least 1"):
        engine.submit(Request(fits, 0), Answer())
    with pytest.raises(UserError, match="seed is -1; expected at least 0"):
        engine.submit(Request(fits, 1, seed=-1), Answer())


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ([], r"input_ids has shape \(0,\); expected \[L\] with at least one token"),
        ([[5, 6]], r"input_ids has shape \(1, 2\)"),
        ([5, 97, 6], "input_ids has 97; expected 0 to 96, -1 at an image and -2 at a video"),
        ([5, -5, -5, -5], "input_ids has -5"),
    ],
)
def test_ids_that_are_no_prompt_are_refused(ids, message, engine):
    with pytest.raises(UserError, match=message):
        engine.submit(Request(ChatPrompt(np.asarray(ids, np.int32)), 1), Answer())


def test_pixels_that_are_none_of_a_picture_are_refused(owl, engine):
    ids = np.asarray([5, *[-1] * owl.num_tokens("image"), 6], np.int32)
    for pixels in (
        np.zeros((14, 14, 3), np.uint8),
        np.zeros((2, 28, 28, 3), np.uint8),  # a video
        np.full((28, 28, 3), np.nan, np.float32),  # would stay in the row
    ):
        with pytest.raises(UserError, match=r"expected uint8\[28, 28, 3\]"):
            engine.submit(Request(ChatPrompt(ids, [pixels]), 1), Answer())
    ids = np.asarray([-2] * owl.num_tokens("video", FRAMES), np.int32)
    clip = np.zeros((FRAMES, 28, 28), np.uint8)
    with pytest.raises(UserError, match=r"uint8\[2, 28, 28\]; expected uint8\[2, 28, 28, 3\]"):
        engine.submit(Request(ChatPrompt(ids, [], [clip]), 1), Answer())


def test_a_row_ends_where_it_is_full(owl, engine):
    prompt = ChatPrompt(np.resize(np.arange(3, 97, dtype=np.int32), 250))
    answer = Answer()
    engine.submit(Request(prompt, 100), answer)
    assert len(answer.wait().ids) == 6 and answer.end.reason == "length"
    assert answer.ids == alone(owl, Request(prompt, 6))


def test_a_full_queue_refuses_and_a_drained_engine_ends(owl):
    prompt = ChatPrompt(np.arange(3, 30, dtype=np.int32))
    engine = Engine(owl, num_rows=1, row_length=128, max_waiting=2, frames=(FRAMES,))
    answers = [Answer(), Answer()]
    for answer in answers:
        engine.submit(Request(prompt, 3), answer)
    with pytest.raises(QueueFull, match="2 requests are waiting"):
        engine.submit(Request(prompt, 3), Answer())
    engine.start()
    assert engine.drain(60)
    assert [len(answer.ids) for answer in answers] == [3, 3]
    with pytest.raises(QueueFull, match="shutting down"):
        engine.submit(Request(prompt, 3), Answer())
    engine.close()


def test_closing_cancels_what_never_began(owl):
    engine = Engine(owl, num_rows=1, row_length=64, frames=(FRAMES,))
    answer = Answer()
    engine.submit(Request(ChatPrompt(np.arange(3, 30, dtype=np.int32)), 3), answer)
    engine.close()
    assert answer.wait(1).end.reason == "cancelled"


def test_who_waits_for_the_end_is_told_of_closing(owl):
    prompt = ChatPrompt(np.arange(3, 30, dtype=np.int32))
    engine = Engine(owl, num_rows=1, row_length=128, frames=(FRAMES,))
    engine.submit(Request(prompt, 90), Answer())
    found = []
    waiting = threading.Thread(target=lambda: found.append(engine.drain()), daemon=True)
    waiting.start()
    while not engine._is_draining:
        time.sleep(0.01)
    engine.start()
    engine.close()
    waiting.join(20)
    assert found == [True]


def two_that_begin_alike():
    """The second copies the beginning of the first, which is being answered."""
    ids = [[*range(3, 80), last] for last in (1, 2)]
    return [Request(ChatPrompt(np.asarray(each, np.int32)), 30) for each in ids]


def test_a_request_on_its_way_to_a_row_is_waited_for(owl, monkeypatch):
    real, started, may_go_on = device_rows.DeviceRows.copy, threading.Event(), threading.Event()

    def slow(self, *arguments):
        started.set()
        assert may_go_on.wait(60)
        real(self, *arguments)

    monkeypatch.setattr(device_rows.DeviceRows, "copy", slow)
    engine = Engine(owl, num_rows=2, row_length=128, frames=(FRAMES,))
    requests, answers = two_that_begin_alike(), [Answer(), Answer()]
    for request, answer in zip(requests, answers, strict=True):
        engine.submit(request, answer)
    engine.start()
    assert started.wait(60)
    engine._rows[0].job.ticket.cancel()
    assert engine.stats().waiting == 0 and engine.stats().running == 2
    assert not engine.drain(0)
    may_go_on.set()
    assert engine.drain(60)
    assert answers[1].ids == alone(owl, requests[1])
    engine.close()


def test_a_copy_that_fails_ends_its_request(owl, monkeypatch):
    def fails(self, *arguments):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(device_rows.DeviceRows, "copy", fails)
    engine = Engine(owl, num_rows=2, row_length=128, frames=(FRAMES,))
    answers = [Answer(), Answer()]
    for request, answer in zip(two_that_begin_alike(), answers, strict=True):
        engine.submit(request, answer)
    engine.start()
    assert [answer.wait().end.reason for answer in answers] == ["error", "error"]
    assert engine.drain(20)
    engine.close()


def test_rows_are_freed_before_new_ones_are_allocated(owl, monkeypatch):
    rows = device_rows.DeviceRows(owl, 2, 128)
    held = weakref.ref(rows._state)
    real, found = device_rows.core.empty_state, []

    def spy(*arguments):
        found.append(held())
        return real(*arguments)

    monkeypatch.setattr(device_rows.core, "empty_state", spy)
    rows.reset()
    assert found == [None]


@pytest.mark.parametrize(
    ("free", "reserved", "mesh", "least", "most"),
    [
        ([100], 0, None, 60, 82),  # 90, less a piece of a prompt and what decoding needs
        ([100], 50, None, 20, 37),
        ([10], 50, None, 1, 1),
        ([32.5] * 8, 0, (2, 2, 2), 60, 112),  # a device has half the heads of a quarter of the rows
        ([40] * 7 + [39], 0, (1, 1, 8), 8, 27),  # eight devices do not divide two heads
    ],
)
def test_as_many_rows_as_there_is_memory_for(free, reserved, mesh, least, most, monkeypatch):
    owl = make_owl(mesh=mesh and make_mesh(*mesh))
    row = 4 * 2 * 2 * 2 * 8 * 64 + 6 * 97  # keys and values of 64 tokens, and what ids take
    monkeypatch.setattr(device_rows, "_free_bytes", lambda _: [int(each * row) for each in free])
    rows = device_rows.DeviceRows(owl, None, 64, reserved * row)
    assert least <= rows.count <= most
    shards = mesh[0] * mesh[1] if mesh else 1
    assert rows.count % shards == 0  # otherwise each device would hold all
    if rows.count > shards:
        here = rows.count // shards * row // (2 if mesh == (2, 2, 2) else 1)
        needed = here + rows._decoding_bytes(rows.count)
        assert needed <= 0.9 * (min(free) - reserved) * row


def test_rows_that_a_mesh_does_not_divide_are_refused():
    owl = make_owl(mesh=make_mesh(data=2, fsdp=2, tensor=2))
    with pytest.raises(UserError, match="num_rows is 6; expected a multiple of 4"):
        Engine(owl, num_rows=6, row_length=64, frames=(FRAMES,))


def test_a_model_with_too_many_end_ids_is_refused_at_once(owl):
    ends = Owl(owl.config, owl.params)
    ends.end_ids = tuple(range(9))
    with pytest.raises(UserError, match="the model has 9 tokens that end an answer; expected at m"):
        Engine(ends, num_rows=1, row_length=64, frames=(FRAMES,))


def test_a_medium_of_two_pieces_is_encoded_once_without_a_cache(owl, monkeypatch):
    use_pieces(monkeypatch, 64)
    random = np.random.default_rng(3)
    pictures = [random.integers(0, 256, (28, 28, 3), np.uint8) for _ in range(2)]
    media = [-1] * owl.num_tokens("image")
    ids = [*range(3, 64), *media, *range(3, 61), *media, 5]  # each across a multiple of 64
    request = Request(ChatPrompt(np.asarray(ids, np.int32), pictures), 6)
    engine = Engine(owl, num_rows=2, row_length=256, frames=(FRAMES,), media_cache_bytes=0)
    engine.start()
    answer = Answer()
    engine.submit(request, answer)
    assert answer.wait().ids == alone(owl, request)
    assert (engine.stats().encoded_media, engine.stats().cached_media) == (2, 0)
    engine.close()


@pytest.mark.parametrize("llm", ["llama", "bloom"])
def test_what_earlier_requests_left_in_a_row_reaches_no_answer(llm, monkeypatch):
    """Keys and values that were not finite, and garbage in all slots."""
    use_pieces(monkeypatch, 64, 512)
    owl = make_owl(llm)
    request = conversation(owl, [*range(3, 90)])
    with Engine(owl, num_rows=1, row_length=576, frames=(FRAMES,)) as engine:
        rows, answers = engine._device, [Answer(), Answer()]
        for bad, answer in zip((np.nan, np.inf), answers, strict=True):
            prefill = device_rows.core.prefill

            def spoilt(*given, bad=bad, prefill=prefill):
                return jax.tree.map(lambda leaf: jnp.full_like(leaf, bad), prefill(*given))

            with monkeypatch.context() as patch:
                patch.setattr(device_rows.core, "prefill", spoilt)
                for start, length in ((0, 512), (512, 64)):
                    ids = np.zeros(length, np.int32)
                    rows.prefill([device_rows.Piece(0, ids, length, start)])
            rows.release(0, 0)
            engine._rows[0].run = engine_module.TokenRun(np.zeros(0, np.int32))
            engine.submit(request, answer)
            assert answer.wait().ids == alone(owl, request)
        huge = jax.tree.map(lambda leaf: jnp.full_like(leaf, 1e30), rows._state.cache)
        rows._state = dataclasses.replace(rows._state, cache=huge)
        engine._rows[0].run = engine_module.TokenRun(np.zeros(0, np.int32))
        again = Answer()
        engine.submit(request, again)
        assert again.wait().ids == alone(owl, request)


def test_an_int8_cache_has_room_for_more_rows(monkeypatch):
    owl = make_owl(cache_dtype="int8")
    row = (8 + 4) * 2 * 2 * 2 * 64 + 6 * 97
    monkeypatch.setattr(device_rows, "_free_bytes", lambda devices: [100 * row + 1])
    # XLA on a CPU widens the whole cache to decode; the kernel of a TPU does not.
    monkeypatch.setattr(device_rows.DeviceRows, "_decoding_bytes", lambda self, count: 0)
    assert device_rows.DeviceRows(owl, None, 64).count == 82  # 90, less a piece of a prompt


def test_counts_are_taken_while_a_request_ends(owl):
    engine = Engine(owl, num_rows=1, row_length=64, frames=(FRAMES,))

    jobs = [Job(None, None, None)]

    class Ending:
        @property
        def job(self):
            return jobs.pop() if jobs else None

    engine._rows = [Ending()]
    assert engine.stats().running == 1


def test_closing_cancels(owl):
    prompt = ChatPrompt(np.arange(3, 30, dtype=np.int32))
    engine = Engine(owl, num_rows=1, row_length=128, frames=(FRAMES,))
    answers = [Answer() for _ in range(3)]
    for answer in answers:
        engine.submit(Request(prompt, 90), answer)
    engine.start()
    engine.close()
    assert {answer.wait(1).end.reason for answer in answers} <= {"cancelled", "length"}
    assert answers[-1].end.reason == "cancelled"


def test_a_failing_device_ends_its_requests_and_goes_on(owl, monkeypatch):
    prompt = ChatPrompt(np.arange(3, 30, dtype=np.int32))
    real, calls = device_rows.DeviceRows.decode, []

    def fails_once(self, *arguments):
        calls.append(arguments)
        if len(calls) == 1:
            raise RuntimeError("out of memory")
        return real(self, *arguments)

    monkeypatch.setattr(device_rows.DeviceRows, "decode", fails_once)
    engine = Engine(owl, num_rows=2, row_length=128, frames=(FRAMES,))
    picture = conversation(owl, [*range(3, 20)])
    first, second, third = Answer(), Answer(), Answer()
    engine.submit(picture, first)
    engine.start()
    assert first.wait().end.reason == "error" and "out of memory" in str(first.end.error)
    engine.submit(Request(prompt, 5), second)
    assert second.wait().ids == alone(owl, Request(prompt, 5))
    engine.submit(picture, third)
    assert third.wait().ids == alone(owl, picture)
    assert engine.stats().encoded_media == 2  # the vectors may have been lost
    engine.close()


def test_an_engine_lives_on_if_its_rows_cannot_be_allocated_again(owl, monkeypatch):
    prompt = ChatPrompt(np.arange(3, 30, dtype=np.int32))
    engine = Engine(owl, num_rows=2, row_length=128, frames=(FRAMES,))
    real, calls = device_rows.core.empty_state, []

    def fails_twice(*arguments):
        calls.append(arguments)
        if len(calls) <= 2:
            raise RuntimeError("out of memory")
        return real(*arguments)

    monkeypatch.setattr(device_rows.core, "empty_state", fails_twice)
    monkeypatch.setattr(engine._device, "_state", None)
    engine.start()
    for _ in range(3):
        lost = Answer()
        engine.submit(Request(prompt, 5), lost)
        assert lost.wait().end.reason == "error"
        assert engine.drain(20)
        engine._is_draining = False
    answer = Answer()
    engine.submit(Request(prompt, 5), answer)
    assert answer.wait().ids == alone(owl, Request(prompt, 5))
    engine.close()


def test_an_engine_knows_when_it_cannot_answer(owl, monkeypatch):
    prompt = ChatPrompt(np.arange(3, 30, dtype=np.int32))
    real, fails = device_rows.DeviceRows.decode, [True] * 3
    begun, release = threading.Event(), threading.Event()

    def decode(self, *arguments):
        if fails:
            fails.pop()
            raise RuntimeError("the device is lost")
        begun.set()
        assert release.wait(60)
        return real(self, *arguments)

    monkeypatch.setattr(device_rows.DeviceRows, "decode", decode)
    engine = Engine(owl, num_rows=2, row_length=128, frames=(FRAMES,))
    engine.start()

    def ask():
        answer = Answer()
        engine.submit(Request(prompt, 5), answer)
        return answer

    for _ in range(2):
        ask().wait()
    assert engine.problem(60) is None
    ask().wait()
    assert "the last 3 attempts to compute failed" in engine.problem(60)
    hanging = ask()
    assert begun.wait(60)
    engine._heard -= 100
    engine._failures = 0
    assert "the device has not answered for 1" in engine.problem(60)
    release.set()
    assert hanging.wait().ids == alone(owl, Request(prompt, 5))
    engine.drain(60)
    engine._heard -= 100  # without work it need not answer
    assert engine.problem(60) is None
    engine.close()
    assert engine.problem(60) == "the engine has ended"


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_requests_are_told_if_the_engine_ends(owl, monkeypatch):
    def ends(self, *arguments):
        raise SystemExit

    monkeypatch.setattr(device_rows.DeviceRows, "decode", ends)
    prompt = ChatPrompt(np.arange(3, 30, dtype=np.int32))
    engine = Engine(owl, num_rows=1, row_length=128, frames=(FRAMES,))
    answers = [Answer(), Answer()]
    for answer in answers:
        engine.submit(Request(prompt, 5), answer)
    engine.start()
    assert [answer.wait().end.reason for answer in answers] == ["cancelled"] * 2
    engine._thread.join(20)
    assert engine.problem(60) == "the engine has ended"
    with pytest.raises(QueueFull, match="shutting down"):
        engine.submit(Request(prompt, 5), Answer())


def test_an_engine_whose_device_hangs_is_closed(owl, monkeypatch):
    hang, begun = threading.Event(), threading.Event()

    def hangs(self, *arguments):
        begun.set()
        hang.wait(60)

    monkeypatch.setattr(device_rows.DeviceRows, "decode", hangs)
    monkeypatch.setattr(engine_module, "_CLOSE_SECONDS", 0.1)
    engine = Engine(owl, num_rows=1, row_length=128, frames=(FRAMES,))
    engine.submit(Request(ChatPrompt(np.arange(3, 30, dtype=np.int32)), 5), Answer())
    engine.start()
    assert begun.wait(60)
    engine.close()
    assert engine._thread.is_alive()
    hang.set()
    engine._thread.join(60)


def test_a_listener_that_raises_ends_only_its_request(owl, engine):
    prompt = ChatPrompt(np.arange(3, 30, dtype=np.int32))

    def broken(event):
        raise RuntimeError("gone")

    answer = Answer()
    engine.submit(Request(prompt, 50), broken)
    engine.submit(Request(prompt, 5), answer)
    assert answer.wait().ids == alone(owl, Request(prompt, 5))
