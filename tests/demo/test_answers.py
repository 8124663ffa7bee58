"""Asking and scoring; the model is tiny and its weights are random, so its answers are babble."""

import dataclasses
import io

import numpy as np
import pytest
import tiny
from PIL import Image

import owl_jax
from owl_jax.demo.answers import (
    MAX_ANSWER_TOKENS,
    _asking,
    accuracy,
    answer,
    blind_answers,
    shuffle_images,
)
from owl_jax.demo.evaluation import evaluate, format_table
from owl_jax.demo.probes import probes
from owl_jax.demo.questions import Question, normalize_answer, questions
from owl_jax.evaluation.prompts import tokenize
from owl_jax.inference.arguments import NUM_FRAMES
from owl_jax.text.conversation import tokenize_prompt

KINDS = ("video", "vqa", "text_math", "two_images", "vqa", "text_facts")


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    config = dataclasses.replace(
        tiny.CONFIG,
        vision=dataclasses.replace(tiny.CONFIG.vision, temporal=True),
        connector=dataclasses.replace(tiny.CONFIG.connector, temporal=True),
        llm=dataclasses.replace(tiny.CONFIG.llm, max_positions=320),
    )
    return tiny.write_model(tmp_path_factory.mktemp("models") / "tiny", config)


@pytest.fixture(scope="module")
def owl(directory):
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
    multi_turn = [question for some in probes(3, 2, image_size=28).values() for question in some]
    for question in [*asked, *multi_turn]:
        found = tokenize(owl, _asking("a", question), "generate", NUM_FRAMES)
        lengths = owl.config.media_lengths(NUM_FRAMES)
        written = tokenize_prompt(question.prompt_text, owl.tokenizer, lengths, as_trained=True)
        assert (found.ids == written).all()


def test_earlier_turns_are_history_with_their_own_pictures():
    for kind, some in probes(3, 2, image_size=28).items():
        for question in some:
            asking = _asking("a", question)
            assert asking.id == "a" and asking.question.parts[-1] == question.question
            turns = [*(turn for turn, _ in asking.history), asking.question]
            media = [[p for p in turn.parts if not isinstance(p, str)] for turn in turns]
            expected = {
                "reworded": [1],
                "follow_up": [1, 0],
                "two_turns": [1, 1],
                "three_images": [3],
            }
            assert list(map(len, media)) == expected[kind]
            shown = [Image.open(io.BytesIO(medium.source)) for some in media for medium in some]
            assert [np.asarray(image).tolist() for image in shown] == [
                np.asarray(image).tolist() for image in question.images
            ]
            said = question.prompt_text.split("\nAI: ")[1:-1]
            given = [line.split("\n")[0] for line in said]
            assert [answer for _, answer in asking.history] == given


def test_evaluation_asks_the_probes_and_reports_them_apart(directory, monkeypatch):
    monkeypatch.setattr("owl_jax.demo.evaluation.BLIND_QUESTIONS", 40)
    results = evaluate(directory, directory, 4)
    outside = ("reworded", "follow_up", "two_turns", "three_images")
    kinds = ("image", "shuffled", "blind", "video", "multi_image", *outside)
    assert set(results.numbers) == {
        *(f"{kind}_accuracy" for kind in kinds),
        *("text_accuracy_before", "text_accuracy_after", "questions", "by_ability"),
    }
    assert results.numbers["questions"] == len(results.examples) == 4 + 3 + 4
    assert not any(name.startswith(outside) for name in results.numbers["by_ability"])
    for kind in outside:
        (example,) = (item for item in results.examples if item.question.kind == kind)
        right = normalize_answer(example.answer) == normalize_answer(example.question.answer)
        assert results.numbers[f"{kind}_accuracy"] == right


def test_the_table_has_the_probes_under_a_line_of_their_own():
    keys = ("image", "shuffled", "blind", "multi_image", "video")
    probed = ("reworded", "follow_up", "two_turns", "three_images")
    report = {f"{key}_accuracy": number / 100 for number, key in enumerate([*keys, *probed], 11)}
    report |= {"text_accuracy_before": 0.31, "text_accuracy_after": 0.32}
    lines = format_table(report | {"questions": 7, "seconds": {"stage0": 2.4}}).split("\n")
    line = lines.index("outside the training")
    shares = ["16.0%", "17.0%", "18.0%", "19.0%"]
    assert [row.split()[-1] for row in lines[line + 1 : line + 5]] == shares
    shares = ["11.0%", "12.0%", "13.0%", "14.0%", "15.0%", "31.0%", "32.0%"]
    assert [row.split()[-1] for row in lines[2:line]] == shares
    assert all(len(row) == 44 for row in [*lines[:line], *lines[line + 1 : -1]])
    assert lines[-1] == "7 questions; stage0 2 s"


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
