"""Asking and scoring; the model is tiny and its weights are random, so its answers are babble."""

import dataclasses

import pytest
import tiny

import owl_jax
from owl_jax.demo.answers import (
    MAX_ANSWER_TOKENS,
    _asked,
    accuracy,
    answer,
    blind_answers,
    shuffle_images,
)
from owl_jax.demo.questions import Question, questions
from owl_jax.evaluation.prompts import Asking, tokenize
from owl_jax.inference.arguments import NUM_FRAMES
from owl_jax.text.conversation import tokenize_prompt

KINDS = ("video", "vqa", "text_math", "two_images", "vqa", "text_facts")


@pytest.fixture(scope="module")
def owl(tmp_path_factory):
    config = dataclasses.replace(
        tiny.CONFIG,
        vision=dataclasses.replace(tiny.CONFIG.vision, temporal=True),
        connector=dataclasses.replace(tiny.CONFIG.connector, temporal=True),
    )
    directory = tiny.write_model(tmp_path_factory.mktemp("models") / "tiny", config)
    return owl_jax.load(directory, "float32")


@pytest.fixture(scope="module")
def asked():
    """Questions with no, one and two pictures and with a video, mixed."""
    return questions("heldout", 3, 10, KINDS, image_size=28)


@pytest.fixture(scope="module")
def answers(owl, asked):
    return answer(owl, asked)


def said(question, given="", kind="vqa", ability="count"):
    return Question(kind, ability, question, "", given, [], [])


def test_answers_are_what_each_question_gets_alone(owl, asked, answers):
    assert len(set(answers)) > 5  # else the comparisons here would show nothing
    for i, question in enumerate(asked[:4]):
        if question.kind in ("video", "two_images"):
            alone = owl.chat(
                question.prompt_text,
                images=question.images,
                videos=question.videos,
                max_new_tokens=MAX_ANSWER_TOKENS,
            )
            assert answers[i] == alone.strip()


def test_prompts_are_cut_as_the_model_was_trained(owl, asked, answers, monkeypatch):
    monkeypatch.setattr(owl, "as_trained", not owl.as_trained)
    turned = answer(owl, asked)
    assert turned != answers
    for question, given in zip(asked[:4], turned, strict=False):
        if question.kind in ("video", "two_images"):
            media = {"images": question.images, "videos": question.videos}
            alone = owl.chat(question.prompt_text, **media, max_new_tokens=MAX_ANSWER_TOKENS)
            assert given == alone.strip()


def test_batching_does_not_change_answers(owl, asked, answers):
    # The groups have 2, 3, 3 and 2 members: batches of 2 leave one over in two of them.
    assert answer(owl, asked, batch_size=2) == answers


def test_answers_are_in_the_order_of_the_questions(owl, asked, answers):
    order = [7, 2, 9, 0, 4, 1, 8, 6, 3, 5]
    assert answer(owl, [asked[i] for i in order]) == [answers[i] for i in order]


def test_questions_are_asked_in_the_words_of_the_training_data(owl, asked):
    for question in asked:
        found = tokenize(owl, Asking("a", _asked(question)), "generate", NUM_FRAMES)
        lengths = owl.config.media_lengths(NUM_FRAMES)
        written = tokenize_prompt(question.prompt_text, owl.tokenizer, lengths, as_trained=True)
        assert (found.ids == written).all()


def test_pictures_and_their_order_matter(owl, asked, answers):
    turned = [dataclasses.replace(q, images=q.images[::-1], videos=q.videos) for q in asked]
    changed = [a != b for a, b in zip(answer(owl, turned), answers, strict=True)]
    pairs = [len(question.images) == 2 for question in asked]
    assert any(changed)
    assert not any(change and not pair for change, pair in zip(changed, pairs, strict=True))


def test_no_questions(owl):
    assert answer(owl, []) == []


def test_accuracy_is_of_normalised_answers():
    asked = [said("?", "red"), said("?", "2"), said("?", "top left"), said("?", "no")]
    assert accuracy(asked, ["The RED.", "3", " top  left ", ""]) == 0.5
    assert accuracy(asked[:1], ["red circle"]) == 0.0
    with pytest.raises(ValueError):
        accuracy(asked, ["red"])


def test_shuffled_questions_keep_all_but_their_pictures():
    asked = questions("heldout", 1, 5, ["vqa"], image_size=24)
    shuffled = shuffle_images(asked)
    for i, (question, other) in enumerate(zip(asked, shuffled, strict=True)):
        assert other.images is asked[i - 1].images
        assert dataclasses.replace(other, images=question.images) == question


def test_blind_answers_are_the_commonest_for_the_words():
    known = [
        said("How many?", "2"),
        said("How many?", "3"),
        said("How many?", "3"),
        said("How many red?", "1"),
        said("Which?", "left", ability="position"),
        said("Where?", "top", ability="position"),
        said("Where?", "top", ability="position"),
    ]
    asked = [
        said("Which?", ability="position"),
        said("How many?", "2"),
        said("How many red?"),
        said("How many blue?"),
        said("On which side?", ability="position"),
    ]
    assert blind_answers(known, asked) == ["left", "3", "1", "3", "top"]


def test_blind_answers_do_not_look():
    known = questions("train", 1, 200, ["vqa"], image_size=24)
    asked = questions("heldout", 1, 50, ["vqa"], image_size=24)
    blind = blind_answers(known, asked)
    assert blind == blind_answers(known, shuffle_images(asked))
    assert 0.1 < accuracy(asked, blind) < 0.4
