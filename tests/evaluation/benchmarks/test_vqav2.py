import json

import pytest

from owl_jax.errors import UserError
from owl_jax.evaluation.benchmark import Judged, Medium, Question
from owl_jax.evaluation.benchmarks.vqav2 import Vqav2
from owl_jax.evaluation.scorers import vqa

BENCHMARK = Vqav2()


@pytest.mark.parametrize(
    ("answer", "normalised"),
    [
        ("The two cats", "2 cats"),
        ("none", "0"),
        ("t-shirt", "t shirt"),
        ("red - blue", "red blue"),
        ("1,000", "1000"),
        ("a,b", "b"),  # a comma between letters becomes a space, and then a is an article
        ("3.5", "3.5"),
        ("10 p.m.", "10 pm"),
        ("dont know", "don't know"),
        ("couldntve", "couldntve"),
        ("couldnt've", "couldn't've"),
        ("yall'd've", "y'all'd've"),
        ("somebody'd", "somebodyd"),
        ("Im here", "im here"),
        (". " * 40, " ".join(["."] * 8)),
    ],
)
def test_normalised(answer, normalised):
    assert vqa.normalised(answer) == normalised


def test_at_least_three_others_have_to_agree():
    references = ["red"] * 4 + ["blue"] * 6
    assert vqa.accuracy("red", references) == 1.0
    assert vqa.accuracy("red", ["red"] * 3 + ["blue"] * 7) == pytest.approx(0.9)
    assert vqa.accuracy("red", ["red"] + ["blue"] * 9) == pytest.approx(0.3)
    assert vqa.accuracy("green", references) == 0.0


def test_answers_without_ids_count_each():
    """The official code tells a person's answer from the others by its id."""
    assert vqa.accuracy("red", ["red", "red", "red", "red"]) == 1.0


def test_where_the_rules_differ():
    agreed, mixed = ["yes"] * 10, ["the two"] * 8 + ["2"] * 2
    assert vqa.accuracy("Yes", agreed) == 0.0
    assert vqa.lmms_eval_accuracy("Yes", agreed) == vqa.owl2_accuracy("Yes", agreed) == 1.0
    assert vqa.accuracy("two", mixed) == vqa.lmms_eval_accuracy("two", mixed) == 1.0
    assert vqa.owl2_accuracy("two", mixed) == pytest.approx(0.6)


def write(
    folder, questions, annotations, subtype="val2014", names=("q_questions", "a_annotations")
):
    folder.mkdir(exist_ok=True)
    whole = {"questions": questions, "data_subtype": subtype}
    (folder / f"{names[0]}.json").write_text(json.dumps(whole))
    (folder / f"{names[1]}.json").write_text(json.dumps({"annotations": annotations}))
    return folder


QUESTION = {"question_id": 7, "image_id": 9, "question": "What?"}
ANNOTATION = {
    "question_id": 7,
    "question_type": "what",
    "answer_type": "other",
    "answers": [{"answer": "owl"}, {"answer": "bird"}, {"answer": "owl"}],
}


def test_data_in_its_form(tmp_path):
    [item] = BENCHMARK.read(write(tmp_path / "coco", [QUESTION], [ANNOTATION]))
    assert item.media == (
        Medium("image", tmp_path / "coco" / "val2014" / "COCO_val2014_000000000009.jpg"),
    )
    assert (item.id, item.truth, item.group) == ("7", "owl", "9")
    assert BENCHMARK.question(item) == Question((*item.media, "What?"))
    own = {**QUESTION, "image": "my/owl.png"}
    [item] = BENCHMARK.read(write(tmp_path / "own", [own], [ANNOTATION], ""))
    assert item.media == (Medium("image", tmp_path / "own" / "my" / "owl.png"),)


def test_an_empty_answer_is_not_parsed(tmp_path):
    items = BENCHMARK.read(write(tmp_path, [QUESTION], [ANNOTATION]))
    [verdict] = BENCHMARK.judge(items, {"7": " \n"}, None)
    assert (verdict.parsed, verdict.score) == (None, 0.0)
    scores = BENCHMARK.scores([Judged(items[0], "", verdict)])
    assert scores["perQuestionType"] == {"what": 0.0}


def without(record, key):
    return {name: value for name, value in record.items() if name != key}


@pytest.mark.parametrize(
    ("questions", "annotations", "words"),
    [
        ([QUESTION], [without(ANNOTATION, "answers")], "found the keys question_id, question_type"),
        ([QUESTION], [{**ANNOTATION, "question_id": 8}], "no answers to question 7 of q_questions"),
        ([QUESTION], [{**ANNOTATION, "answers": []}], r"question 7: found \[\] as answers"),
        ([QUESTION], [{**ANNOTATION, "answers": ["owl"]}], "found 'owl'; expected an object"),
        ([without(QUESTION, "question")], [ANNOTATION], "entry 1 of questions: found the keys"),
        ([], [ANNOTATION], r"questions is \[\]; expected a list"),
    ],
)
def test_other_files(questions, annotations, words, tmp_path):
    with pytest.raises(UserError, match=words):
        BENCHMARK.read(write(tmp_path, questions, annotations))


def test_other_folders(tmp_path):
    with pytest.raises(UserError, match=r"has no file; expected \*questions.json in it"):
        BENCHMARK.read(tmp_path)
    write(tmp_path, [QUESTION], [ANNOTATION])
    write(tmp_path, [QUESTION], [ANNOTATION], names=("train_questions", "a_annotations"))
    with pytest.raises(UserError, match=r"has q_questions.json, train_questions.json; expected"):
        BENCHMARK.read(tmp_path)
    with pytest.raises(UserError, match=r"expected a folder with questions and annotations"):
        BENCHMARK.read(tmp_path / "q_questions.json")
