"""Questions outside the training: their answers are right, and no training example is like them."""

import re

import pytest
from scene_solver import members, only, scene_in_pixels, solve_one_of, solve_scene, solve_two

from owl_jax.demo.dialogues import KINDS
from owl_jax.demo.probes import probes
from owl_jax.demo.questions import normalize_answer
from owl_jax.demo.scenes import held_out
from owl_jax.demo.synthetic import SyntheticSource, iter_texts
from owl_jax.text.turns import SYSTEM

# Each other wording, and the training's.
OTHER_WORDS = {
    r"Name the color of the (.*)\.": "What color is the {}?",
    r"The (.*) is of what shape\?": "What shape is the {}?",
    r"What is the number of (.*)\?": "How many {} are there?",
    r"What is the place of the (.*)\?": "Where is the {}?",
    r"Is the number of (.*) above the number of (.*)\?": "Are there more {} than {}?",
    r"The (.*), yes or no\?": "Is the {}?",
}
IT = {"And what shape is it?", "And where is it?"}


@pytest.fixture(scope="module")
def asked():
    return probes(seed=7, count=60)


@pytest.fixture(scope="module")
def trained():
    """Texts of training examples of every kind."""
    return list(iter_texts(SyntheticSource(dict.fromkeys(KINDS, 1.0), size=4000, turns=6)))


def turns_of(question):
    """(lines of the human, answer) of each turn; the last turn has no answer."""
    system, *lines = question.prompt_text.split("\n")
    assert system == SYSTEM
    turns, said = [], []
    for line in lines:
        speaker, words = line.split(": ", 1)
        if speaker == "Human":
            said.append(words)
        else:
            turns.append((said, words))
            said = []
    assert turns[-1][0][-1] == question.question and turns[-1][1] == "" and not said
    return turns


def test_every_probe_is_of_held_out_pictures(asked):
    assert list(asked) == ["reworded", "follow_up", "two_turns", "three_images"]
    for kind, pictures in zip(asked, (1, 1, 2, 3), strict=True):
        assert len({question.prompt_text for question in asked[kind]}) > 5
        for question in asked[kind]:
            assert question.kind == kind and len(question.images) == pictures
            assert all(held_out(scene_in_pixels(image)) for image in question.images)
            marks = [said.count("<image>") for said, _ in turns_of(question)]
            assert marks == ([1, 1] if kind == "two_turns" else [pictures, 0][: len(marks)])


def test_reworded_questions_have_the_answers_of_the_usual_ones(asked):
    used = set()
    for question in asked["reworded"]:
        other, found = only(
            (usual, found)
            for words, usual in OTHER_WORDS.items()
            if (found := re.fullmatch(words, question.question))
        )
        used.add(other)
        usual = other.format(*found.groups())
        assert solve_scene(usual, scene_in_pixels(only(question.images))) == question.answer
    assert used == set(OTHER_WORDS.values())


def test_it_is_the_object_of_the_first_question(asked):
    for question in asked["follow_up"]:
        scene = scene_in_pixels(only(question.images))
        (first, answer), _ = turns_of(question)
        assert solve_scene(first[-1], scene) == answer
        what = re.fullmatch(r"What (?:color|shape) is the (.*)\?", first[-1])[1]
        thing = only(members(scene, what))
        explicit = {
            "And what shape is it?": f"What shape is the {what}?",
            "And where is it?": f"Where is the {thing.color} {thing.shape}?",
        }[question.question]
        assert solve_scene(explicit, scene) == question.answer
    assert {question.question for question in asked["follow_up"]} == IT


def test_a_second_picture_comes_with_the_second_question(asked):
    for question in asked["two_turns"]:
        first, second = map(scene_in_pixels, question.images)
        ((mark, asking), answer), ((other_mark, _), _) = turns_of(question)
        assert mark == other_mark == "<image>"
        assert solve_scene(asking, first) == answer
        assert solve_two(question.question, (first, second)) == question.answer


def test_three_pictures_are_told_apart(asked):
    for question in asked["three_images"]:
        scenes = tuple(map(scene_in_pixels, question.images))
        assert solve_one_of(question.question, scenes) == question.answer
    words = " ".join(question.question for question in asked["three_images"])
    assert all(f" {ordinal} image?" in words for ordinal in ("first", "second", "third"))


def test_no_training_example_is_like_them(trained):
    for text in trained:
        beginning, *later = text.split("\nAI: ")
        assert beginning.count("<image>") <= 2 and "<image>" not in "".join(later)
        assert "third" not in text
        for question in re.findall("\nHuman: (.*)\nAI: ", text):
            assert not any(re.fullmatch(words, question) for words in OTHER_WORDS)
            assert question not in IT and not re.search(r"\bit\b", question)


def test_probes_depend_on_seed_kind_and_index_only(asked):
    few, other = probes(7, 3), probes(8, 3)
    for kind, questions in few.items():
        assert [q.prompt_text for q in questions] == [q.prompt_text for q in asked[kind][:3]]
        assert questions[0].images == asked[kind][0].images
        assert [q.prompt_text for q in other[kind]] != [q.prompt_text for q in questions]


def test_answers_are_more_than_one_word(asked):
    """As in training: a sentence, so that a guessed word does not count."""
    for questions in asked.values():
        assert all(len(normalize_answer(question.answer).split()) > 2 for question in questions)
