"""Asking a model: each question gets the answer that it gets alone, in every mode."""

import dataclasses

import jax
import numpy as np
import pytest
import tiny
from questions import CHOICES, FRAMES, askings, picture, picture_files

import owl_jax
from owl_jax.errors import UserError
from owl_jax.evaluation.answers import read_answers
from owl_jax.evaluation.ask import Settings, ask, model_hash, prepare
from owl_jax.evaluation.ask_variants import base_language_model, blind, shuffled
from owl_jax.evaluation.benchmark import LETTERS, Medium, Question
from owl_jax.evaluation.prompts import Asking, tokenize
from owl_jax.evaluation.responders import Model, Texts, generate_in_batches
from owl_jax.inference.api import Owl
from owl_jax.models.lora import LoraConfig

NEW = 12


def quiet(progress):
    """Tells nothing."""


@pytest.fixture(scope="module")
def owl(tmp_path_factory):
    llm = dataclasses.replace(tiny.CONFIG.llm, max_positions=320)
    config = dataclasses.replace(tiny.CONFIG, llm=llm)
    directory = tiny.write_model(tmp_path_factory.mktemp("models") / "tiny", config)
    return owl_jax.load(directory, "float32")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    return picture_files(tmp_path_factory.mktemp("pictures"), 5)


@pytest.fixture(scope="module")
def asked(pictures):
    return askings(12, pictures)


def answer(owl, questions, directory, mode="generate", run=(), **more):
    settings = Settings(mode, NEW, FRAMES)
    return ask(owl, questions, settings, directory, dict(run), tell=quiet, **more)


def texts(outcome):
    return {id: answer.answer for id, answer in outcome.answers.items()}


@pytest.fixture(scope="module")
def generated(owl, asked, tmp_path_factory):
    return texts(answer(owl, asked, tmp_path_factory.mktemp("generated"), num_rows=4))


def alone(owl, asking):
    """The answer of `Owl.chat`."""
    content = [
        {"type": part.kind, part.kind: opened(part)}
        if isinstance(part, Medium)
        else {"type": "text", "text": part}
        for part in asking.question.parts
    ]
    messages = [{"role": "user", "content": content}]
    return owl.chat(messages, max_new_tokens=NEW, num_frames=FRAMES).strip()


def opened(medium):
    return list(medium.source) if isinstance(medium.source, tuple) else medium.source


def test_answers_are_what_each_question_gets_alone(owl, asked, generated):
    assert len(set(generated.values())) > 8  # else the comparisons here would show nothing
    assert list(generated) == [asking.id for asking in asked]
    for asking in asked[:4]:
        assert generated[asking.id] == alone(owl, asking)


def test_batches_give_the_same_answers(owl, asked, generated):
    respond = generate_in_batches(Model.of(owl), Texts.of(owl), NEW, batch_size=2)
    prompts = (prepare(owl, asking, Settings(num_frames=FRAMES)) for asking in asked)
    assert {reply.id: reply.text for reply in respond(prompts)} == generated


def test_an_answer_goes_on_from_its_start_and_from_the_conversation(owl, pictures, tmp_path):
    medium = Medium("image", pictures[0])
    first = Question((medium, "What do you see?"))
    asking = Asking("a", Question(("And?",), "An"), history=((first, "A human."),))
    outcome = answer(owl, [asking], tmp_path)
    text = (
        "The following is a conversation between a curious human and AI assistant. The assistant "
        "gives helpful, detailed, and polite answers to the user's questions."
        "\nHuman: <image>\nHuman: What do you see?\nAI: A human.\nHuman: And?\nAI: An"
    )
    assert texts(outcome)["a"] == owl.chat(text, pictures[:1], max_new_tokens=NEW).strip()


def losses_in_one_pass(owl, asking, more):
    """By `Owl.logits` of the question and `more` of its answer, tokenized together."""
    asking = dataclasses.replace(asking, choices=())
    begun = dataclasses.replace(asking.question, answer_start=more)
    prompt = tokenize(owl, asking, "generate", FRAMES).ids
    pixels = prepare(
        owl, dataclasses.replace(asking, question=begun), Settings(num_frames=FRAMES)
    ).prompt
    ids = pixels.input_ids
    logprobs = jax.nn.log_softmax(
        owl.logits(
            ids[None],
            np.stack(pixels.images) if pixels.images else None,
            np.stack(pixels.videos) if pixels.videos else None,
        )[0]
    )
    assert (ids[: len(prompt)] == prompt).all()
    return -sum(float(logprobs[i - 1, ids[i]]) for i in range(len(prompt), len(ids)))


@pytest.fixture(scope="module")
def ranked(owl, asked, tmp_path_factory):
    return answer(owl, asked, tmp_path_factory.mktemp("ranked"), "rank").answers


def test_rank_chooses_the_choice_of_least_loss(owl, asked, ranked):
    assert len({found.answer for found in ranked.values()}) > 1
    for asking in asked[:4]:
        found = ranked[asking.id]
        expected = [losses_in_one_pass(owl, asking, choice) for choice in asking.choices]
        np.testing.assert_allclose(found.losses, expected, rtol=1e-4)
        assert found.answer == LETTERS[int(np.argmin(expected))]


def test_letter_chooses_the_likeliest_letter(owl, asked, tmp_path):
    found = answer(owl, asked, tmp_path, "letter").answers
    assert len({each.answer for each in found.values()}) > 1
    for asking in asked[:4]:
        letters = LETTERS[: len(asking.choices)]
        losses = found[asking.id].losses
        assert len(losses) == len(letters)
        assert found[asking.id].answer == letters[int(np.argmin(losses))]


def test_a_letter_may_be_written_with_a_space(owl):
    """The likeliest of both forms counts, in the same sequence of tokens."""
    asking = Asking("a", Question(("What?",), "The answer:"), CHOICES)
    found = tokenize(owl, asking, "letter", FRAMES)
    for letter, tokens in zip(LETTERS, found.continuations, strict=False):
        written = {owl.tokenizer.token_bytes(token).decode().strip() for token in tokens}
        assert written == {letter}


def test_tokens_of_a_choice_are_those_of_training(owl, asked):
    found = tokenize(owl, asked[0], "rank", FRAMES)
    prompt = tokenize(owl, asked[0], "generate", FRAMES)
    assert (found.ids == prompt.ids).all()
    for choice, tokens in zip(asked[0].choices, found.continuations, strict=True):
        assert list(tokens) == owl.tokenizer.encode(choice)


def test_marks_in_texts_are_no_media_and_no_turns(owl):
    text = "Is <image> here?\nHuman: <|video|>"
    asking = Asking("a", Question((text,)), ("yes\nAI: no", "<image>"))
    found = tokenize(owl, asking, "rank", FRAMES)
    assert (found.ids >= 0).all()
    assert all(min(tokens) >= 0 for tokens in found.continuations)


def test_blind_and_shuffled_questions(owl, asked, ranked, tmp_path):
    without = blind(asked)
    assert [asking.media for asking in without] == [()] * len(asked)
    assert [asking.choices for asking in without] == [asking.choices for asking in asked]
    others = shuffled(asked, 1)
    assert others == shuffled(asked, 1)
    assert any(others != shuffled(asked, seed) for seed in range(2, 6))
    for asking, other in zip(asked, others, strict=True):
        assert [m.kind for m in asking.media] == [m.kind for m in other.media]
        assert asking.media != other.media or not asking.media
        assert asking.question.parts[-1] == other.question.parts[-1]
    blindly = answer(owl, without, tmp_path / "blind", "rank").answers
    elsewhere = answer(owl, others, tmp_path / "shuffled", "rank").answers
    for asking in asked:
        found = [answers[asking.id].losses for answers in (ranked, blindly, elsewhere)]
        assert len(set(found)) == (3 if asking.media else 1)


def test_the_base_language_model_has_no_adapter_and_sees_nothing(owl, asked, tmp_path):
    with pytest.raises(UserError, match="has no adapter, so its language model may not be"):
        base_language_model(owl)
    lora = LoraConfig(2, 4, ("q_proj",))
    adapted = owl.with_params(dataclasses.replace(owl.config, lora=lora), owl.params)
    base = base_language_model(adapted)
    assert base.config.text_only and set(base.params) == {"llm"}
    found = answer(base, blind(asked[:2]), tmp_path, "rank").answers
    for asking in blind(asked[:2]):
        expected = losses_in_one_pass(base, asking, CHOICES[0])
        np.testing.assert_allclose(found[asking.id].losses[0], expected, rtol=1e-4)


def test_a_run_goes_on_where_questions_have_no_answer(owl, asked, tmp_path):
    told = []

    def tell(progress):
        told.append((progress.earlier, progress.answered))

    settings = Settings("rank", num_frames=FRAMES)
    first = ask(owl, asked[:5], settings, tmp_path, {}, tell=tell)
    assert told[-1] == (0, 5)
    again = ask(owl, asked, settings, tmp_path, {}, tell=tell)
    assert told[-1] == (5, 7)
    assert {**again.answers, **first.answers} == again.answers
    assert len((tmp_path / "answers.jsonl").read_text().splitlines()) == 12


def test_a_changed_picture_is_asked_again(owl, tmp_path):
    file = tmp_path / "one.png"
    file.write_bytes(picture(1))
    questions = [Asking("a", Question((Medium("image", file), "What?")), CHOICES)]
    before = answer(owl, questions, tmp_path / "out", "rank").answers["a"]
    file.write_bytes(picture(2))
    after = answer(owl, questions, tmp_path / "out", "rank").answers["a"]
    assert before.key != after.key and before.losses != after.losses
    assert read_answers(tmp_path / "out") == {"a": after}


def test_what_differs_from_the_directorys_run_is_named(owl, asked, tmp_path):
    run = {"benchmark": "pope", "data": "abc"}
    answer(owl, asked[:1], tmp_path, "rank", run)
    for mode, other, named in (
        ("rank", {**run, "benchmark": "mme"}, "benchmark is 'pope' there, 'mme' here"),
        ("rank", {**run, "data": "d"}, "data is 'abc' there, 'd' here"),
        ("letter", run, "mode is 'rank' there, 'letter' here"),
        ("rank", {**run, "template": "owl"}, "template is None there, 'owl' here"),
    ):
        with pytest.raises(UserError, match="has another run's answers") as error:
            answer(owl, asked[:1], tmp_path, mode, other)
        assert named in str(error.value) and "\n" not in str(error.value)


def test_models_differ_by_weights_and_by_settings(owl):
    params = jax.tree.map(lambda leaf: leaf, owl.params)
    same = owl.with_params(owl.config, params)
    assert model_hash(same) == model_hash(owl)
    kernel = params["llm"]["lm_head"]["kernel"]
    params["llm"]["lm_head"]["kernel"] = kernel.at[3, 300].add(1e-6)
    other = dataclasses.replace(owl.config, conversation="vicuna")
    hashes = {model_hash(owl.with_params(*x)) for x in ((owl.config, params), (other, owl.params))}
    narrow = Owl(owl.config, owl.params, cache_dtype="int8")
    assert narrow.with_params(narrow.config, narrow.params).cache_dtype == "int8"
    assert len(hashes | {model_hash(owl), model_hash(narrow)}) == 4


def test_failures_are_told_and_asked_again(owl, asked, pictures, tmp_path):
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no picture")
    long = Asking("long", Question(("word " * 400,)), CHOICES)
    damaged = Asking("damaged", Question((Medium("image", broken), "What?")), CHOICES)
    for mode in ("generate", "rank"):
        questions = [asked[0], damaged, long, asked[1]]
        found = answer(owl, questions, tmp_path / mode, mode)
        assert set(found.failed) == {"damaged", "long"}
        assert "broken.png" in found.failed["damaged"] and "tokens" in found.failed["long"]
        assert list(found.answers) == [asked[0].id, asked[1].id]
    broken.write_bytes(picture(3))
    again = answer(owl, questions, tmp_path / "rank", "rank")
    assert list(again.failed) == ["long"] and len(again.answers) == 3


def test_missing_pictures(owl, pictures, tmp_path):
    def with_picture(number, path):
        return Asking(f"q{number}", Question((Medium("image", path), "What?")), CHOICES)

    there = [with_picture(number, pictures[0]) for number in range(100)]
    gone = [with_picture(number, tmp_path / f"gone{number}.png") for number in (100, 101)]
    with pytest.raises(UserError) as error:
        answer(owl, [*there, *gone], tmp_path / "out", "letter")
    assert str(error.value).startswith("2 of 102 questions miss a picture or video, more than 1%:")
    assert "gone100.png" in str(error.value) and "gone101.png" in str(error.value)
    with pytest.raises(UserError) as error:
        answer(owl, [gone[0], dataclasses.replace(gone[0], id="q102")], tmp_path / "out", "letter")
    assert str(error.value).count("gone100.png") == 1  # of two questions about one picture
    assert not (tmp_path / "out").exists()
    found = answer(owl, [*there, gone[0]], tmp_path / "out", "letter")
    assert found.missing == {"q100": str(tmp_path / "gone100.png")}
    assert len(found.answers) == 100


def test_what_a_model_cannot_be_asked_is_refused_at_the_start(owl, asked, tmp_path):
    lora = dataclasses.replace(owl.config, lora=LoraConfig(2, 4, ("q_proj",)))
    base = base_language_model(owl.with_params(lora, owl.params))
    with pytest.raises(UserError, match="question q0 shows a picture, but this language model has"):
        answer(base, asked, tmp_path)
    mute = [dataclasses.replace(asked[0], choices=())]
    for mode in ("rank", "letter"):
        with pytest.raises(UserError, match=f"question q0 has no choices; --mode={mode}"):
            answer(owl, mute, tmp_path, mode)
    empty = [dataclasses.replace(asked[0], choices=("yes", ""))]
    found = answer(owl, empty, tmp_path, "rank")
    assert "choice B is ''; --mode=rank needs a text" in found.failed["q0"]
