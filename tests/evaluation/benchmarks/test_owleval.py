import json

import pytest

from owl_jax.errors import UserError
from owl_jax.evaluation.benchmark import Judged, Medium
from owl_jax.evaluation.benchmarks.owleval import OwlEval
from owl_jax.evaluation.rating.published import read_published, write_published

QUESTIONS = [
    ("1.jpg", 1, "What is funny?", "a,b,e", ["single_turn"]),
    ("2.jpg", 2, "Is there text?", "a,c", ["single_turn", "multi_turn"]),
    ("2.jpg", 3, "Explain it to me.", "a, b,f", ["multi_turn"]),
    ("2.jpg", 4, "And why?", "a,f", ["multi_turn"]),
]
KEYS = ("image", "question_id", "question", "ability", "category")


def records(*changes):
    """The questions, each with the changes given for its place."""
    changed = dict(changes)
    return [
        {**dict(zip(KEYS, row, strict=True)), **changed.get(place, {})}
        for place, row in enumerate(QUESTIONS)
    ]


def write(path, lines):
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return path


def read(folder, *changes):
    write(folder / "questions.jsonl", records(*changes))
    return OwlEval().read(folder)


def test_questions_turns_and_abilities(tmp_path):
    items = read(tmp_path)
    assert [item.id for item in items] == ["1", "2", "3", "4"]
    assert items[0].media == (Medium("image", tmp_path / "cases" / "1.jpg"),)
    assert OwlEval().question(items[0]).parts == (*items[0].media, "What is funny?")
    assert items[2].fields["abilities"] == ("a", "b", "f")
    assert [item.earlier for item in items] == [(), (), ("2",), ("2", "3")]
    assert items[1].fields["turns"] == ("single_turn", "multi_turn")


def test_only_whether_there_is_an_answer_is_counted(tmp_path):
    items = read(tmp_path)
    answers = {"1": "Ha.", "2": "Yes.", "3": " \n", "4": "So."}
    verdicts = OwlEval().judge(items, answers, None)
    judged = [Judged(item, "", verdict) for item, verdict in zip(items, verdicts, strict=True)]
    assert OwlEval().scores(judged) == {"answered": 3, "single_turn": 2, "multi_turn": 2}
    assert OwlEval().headline_value(judged) == 0.75


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"ability": "a,g"}, "line 2: found the ability 'a,g'"),
        ({"category": "single_turn"}, "line 2: found the category 'single_turn'"),
        ({"category": []}, r"line 2: found the category \[\]"),
    ],
)
def test_other_questions(change, words, tmp_path):
    with pytest.raises(UserError, match=words):
        read(tmp_path, (1, change))


def test_other_files(tmp_path):
    with pytest.raises(UserError, match=r"expected questions.jsonl in it"):
        OwlEval().read(tmp_path)
    write(tmp_path / "questions.jsonl", [{"question_id": 1, "text": "LLaVA's"}])
    with pytest.raises(
        UserError, match=r"line 1: found the keys question_id, text; expected image"
    ):
        OwlEval().read(tmp_path)


def test_answers_in_the_published_form(tmp_path):
    items = read(tmp_path)
    path = tmp_path / "answers.jsonl"
    write_published(path, items, {"1": "Ha.", "4": "因为"}, "owl_jax")
    assert [json.loads(line) for line in path.read_text("utf-8").splitlines()] == [
        {
            "image": "1.jpg",
            "question_id": 1,
            "question": "What is funny?",
            "answer": "Ha.",
            "model_id": "owl_jax",
        },
        {
            "image": "2.jpg",
            "question_id": 4,
            "question": "And why?",
            "answer": "因为",
            "model_id": "owl_jax",
        },
    ]
    found = read_published(path, items)
    assert (found.model_id, found.answers, found.reworded) == (
        "owl_jax",
        {"1": "Ha.", "4": "因为"},
        (),
    )


def answer(**changes):
    return {
        "image": "1.jpg",
        "question_id": 1,
        "question": "What is funny?",
        "answer": "Ha.",
        "model_id": "m",
        **changes,
    }


def test_published_files_join_by_question_id(tmp_path):
    """As in the published files: other suffixes, spaces, marks and words; empty answers."""
    items = read(tmp_path)
    lines = [
        answer(image="1.png", question=" What is  funny？"),
        answer(image="2.jpg", question_id="2", question="Is theretext", answer=""),
        answer(image="2.jpg", question_id=3, question="Explain them to me."),
    ]
    found = read_published(write(tmp_path / "a.jsonl", lines), items)
    assert found.answers == {"1": "Ha.", "2": "", "3": "Ha."}
    assert found.reworded == ("3",)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ({"question_id": 83}, "line 2: OwlEval has no question '83'"),
        ({}, "line 2: question 1 is there twice"),
        ({"question_id": 2}, "line 2: question 2 is about '1.jpg'; expected 2.jpg"),
        ({"question_id": 2, "image": "2.jpg", "answer": None}, "line 2: the answer is None"),
        ({"question_id": 2, "image": "2.jpg", "model_id": "n"}, r"several systems .m, n."),
    ],
)
def test_files_that_do_not_join(line, words, tmp_path):
    items = read(tmp_path)
    path = write(tmp_path / "a.jsonl", [answer(), answer(**line)])
    with pytest.raises(UserError, match=words):
        read_published(path, items)
