"""The command owl_jax.evaluate."""

import json

import forked
import pytest
import tiny
from html_page import Page
from PIL import Image

from owl_jax.evaluation.rating.tally import token_of

COLORS = ("red", "green", "blue")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """POPE's files: twelve questions about three pictures each, whose answer is in their text."""
    folder = tmp_path_factory.mktemp("evaluate") / "pope"
    (folder / "images").mkdir(parents=True)
    for color in COLORS:
        Image.new("RGB", (16, 16), color).save(folder / "images" / f"{color}.png")
    for kind in ("random", "popular", "adversarial"):
        lines = [
            {
                "question_id": number,
                "image": f"{COLORS[number % 3]}.png",
                "text": f"Is it {asked}?",
                "label": "yes" if asked == COLORS[number % 3] else "no",
            }
            for number, asked in enumerate(COLORS * 4)
        ]
        for line in lines[3:5]:
            line["label"] = "no"
        path = folder / f"coco_pope_{kind}.json"
        path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return folder


def write_answers(path, answer=lambda id: "Yes", ids=None):
    ids = ids or [f"{k}/{i}" for k in ("random", "popular", "adversarial") for i in range(12)]
    path.write_text("".join(json.dumps({"id": id, "answer": answer(id)}) + "\n" for id in ids))
    return path


def evaluate(data, output, *arguments):
    return forked.run(
        *("-m", "owl_jax.evaluate", "--benchmark=pope", f"--data={data}", f"--output={output}"),
        *arguments,
    )


def test_answers_of_another_system_are_scored(data, tmp_path):
    answers = write_answers(tmp_path / "other.jsonl")
    result = evaluate(data, tmp_path / "out", f"--answers={answers}", "--name=<b>other</b>")
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines() == [
        "pope: accuracy, mean of the three files 0.8333 (0.75 to 1), 36 items",
        '  always "Yes": 0.8333',
        '  always "No": 0.1667',
        '  the most frequent answer, "Yes": 0.8333',
        f"{tmp_path / 'out' / 'report.html'}",
    ]
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert results["scores"]["random"]["TP"] == 10 and results["scores"]["random"]["FP"] == 2
    expected = {"mode": "given", "template": "given", "parser": "official", "seed": 0}
    assert {key: results[key] for key in expected} == expected
    assert len(results["model"]) == len(results["items_hash"]) == 64
    kept = (tmp_path / "out" / "answers.jsonl").read_text()
    assert [json.loads(line) for line in kept.splitlines()] == [
        json.loads(line) for line in answers.read_text().splitlines()
    ]
    page = Page(tmp_path / "out" / "report.html")
    assert "<b>other</b>" in page.text and "red.png" not in page.text
    assert len(page.all("img")) == 24  # twelve of the lowest scores, twelve at random


def test_two_systems_are_compared_on_the_same_items(data, tmp_path):
    first = write_answers(tmp_path / "first.jsonl")
    second = write_answers(tmp_path / "second.jsonl", lambda id: "No" if id[-1] == "4" else "Yes")
    assert evaluate(data, tmp_path / "a", f"--answers={first}").returncode == 0
    result = evaluate(data, tmp_path / "b", f"--answers={second}", f"--compare={tmp_path / 'a'}")
    assert result.returncode == 0, result.stderr
    page = Page(tmp_path / "b" / "report.html")
    assert "second minus first: +0.08333" in page.text


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "give --model=DIR, or --answers=FILE with answers of another system"),
        (["--answers=a.jsonl", "--model=m"], "give --model=DIR, or --answers=FILE"),
        (["--answers=none.jsonl"], "none.jsonl: No such file or directory"),
        (["--model=m", "--mode=rank"], "--mode=rank: pope has no choices; expected generate"),
        (["--model=m", "--baselines=guess"], "--baselines=guess: expected some of blind, shuffled"),
        (["--answers=a", "--mode=rank"], "--mode has no meaning with --answers: no model is asked"),
        (["--answers=a", "--judge_model=j"], "--judge_model has no meaning without --judge_url"),
        (["--model=m", "--template=lava"], "--template=lava: expected official, llava, owl"),
        (["--answers=a", "--seed=-1"], "--seed is -1; expected at least 0"),
        (["--model=m", "--shard_index=2", "--num_shards=2"], "expected 0 to 1 of at least 1"),
    ],
)
def test_a_wrong_flag_is_one_line(data, tmp_path, arguments, words):
    result = evaluate(data, tmp_path / "out", *arguments)
    assert (result.returncode, result.stderr.count("\n")) == (1, 1)
    assert words in result.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{}", "line 1: found the keys ; expected id"),
        ('{"id": "random/1"}', "found the keys id; expected id, answer"),
        ("[", "line 1 is not JSON"),
        ("", "is empty; expected objects with id"),
        ('{"id": "random/1", "answer": 3}', "id random/1: the answer is 3; expected a text"),
        ('{"id": "random/1", "answer": ""}\n' * 2, "answers 'random/1' twice"),
        ('{"id": 1, "answer": ""}', "answers 1 questions that are not in the data, such as '1'"),
    ],
)
def test_a_wrong_file_of_answers_is_one_line(data, tmp_path, text, words):
    path = tmp_path / "answers.jsonl"
    path.write_text(text)
    result = evaluate(data, tmp_path / "out", f"--answers={path}")
    assert (result.returncode, result.stderr.count("\n")) == (1, 1)
    assert words in result.stderr


def test_an_output_that_is_a_file_is_refused(data, tmp_path):
    answers = write_answers(tmp_path / "other.jsonl")
    result = evaluate(data, answers, f"--answers={answers}")
    assert result.returncode == 1 and "is a file; expected a directory" in result.stderr


OWN = """
from owl_jax.evaluation.benchmark import Benchmark, Item, Question, Verdict

class Mine(Benchmark):
    name, kind, headline = "mine", "judged", "score"
    def read(self, data): return [Item("1", "?")]
    def question(self, item): return Question(("?",))
    def judge(self, items, answers, ask): return [Verdict("x", 1.0)]
    def scores(self, judged): return {}
    def headline_value(self, judged): return 1.0

MINE = Mine()
"""


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('[Item("1", "?")]', "1 / 0", "mine.py, line 6: ZeroDivisionError: division by zero"),
        ('[Verdict("x", 1.0)]', "[]", "mine gave 0 verdicts on 1 answers; expected one on each"),
        ("1.0)]", 'float("nan"))]', "mine scored the answer to '1' nan; expected a number"),
        (', headline = "mine", "judged", "score"', ' = "mine", "judged"', "lacks headline"),
        ("MINE = Mine()", "", "has 0 objects of class Benchmark; expected one"),
    ],
)
def test_a_fault_of_ones_own_benchmark_is_one_line(tmp_path, old, new, words):
    assert old in OWN
    (tmp_path / "mine.py").write_text(OWN.replace(old, new))
    (tmp_path / "answers.jsonl").write_text('{"id": "1", "answer": "x"}')
    result = forked.run(
        *("-m", "owl_jax.evaluate", f"--benchmark={tmp_path / 'mine.py'}", f"--data={tmp_path}"),
        *(f"--answers={tmp_path / 'answers.jsonl'}", f"--output={tmp_path / 'out'}"),
    )
    assert (result.returncode, result.stderr.count("\n")) == (1, 1), result.stderr
    assert words in result.stderr


def test_missing_answers_are_said_and_counted(data, tmp_path):
    answers = write_answers(tmp_path / "some.jsonl", ids=["random/0", "popular/1"])
    result = evaluate(data, tmp_path / "out", f"--answers={answers}")
    assert "  34 questions have no answer: scored as empty" in result.stdout.splitlines()


def test_results_of_other_data_are_not_compared(data, tmp_path):
    answers = write_answers(tmp_path / "other.jsonl")
    assert evaluate(data, tmp_path / "out", f"--answers={answers}").returncode == 0
    path = tmp_path / "out" / "results.json"
    path.write_text(path.read_text().replace('"items_hash": "', '"items_hash": "0'))
    compare = f"--compare={tmp_path / 'out'}"
    result = evaluate(data, tmp_path / "again", f"--answers={answers}", compare)
    assert result.returncode == 1
    assert "has results on other data; evaluate both on the same files" in result.stderr


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny.write_model(tmp_path_factory.mktemp("evaluate") / "owlet")


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    """Five questions with choices, about pictures."""
    folder = tmp_path_factory.mktemp("shapes")
    lines = []
    for number, color in enumerate(["red", "green", "blue", "red", "blue"]):
        Image.new("RGB", (20, 20 + number), color).save(folder / f"{number}.png")
        record = {"id": f"{number}", "question": "Which color?", "image": f"{number}.png"}
        lines.append(record | {"choices": ["red", "green", "blue"], "answer": color})
    path = folder / "shapes.jsonl"
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return path


def ask(shapes, model, output, *arguments):
    return forked.run(
        *("-m", "owl_jax.evaluate", "--benchmark=jsonl", f"--data={shapes}", f"--model={model}"),
        *(f"--output={output}", "--mode=rank", *arguments),
    )


def test_shards_write_the_results_of_one_process(shapes, model, tmp_path):
    flags = "--baselines=blind,language_model"
    tiny_base = ask(shapes, model, tmp_path / "refused", flags)
    assert "the model has no adapter" in tiny_base.stderr
    whole = ask(shapes, model, tmp_path / "whole", "--baselines=blind")
    assert whole.returncode == 0, whole.stderr
    halves = tmp_path / "halves"
    first = ask(shapes, model, halves, "--baselines=blind", "--num_shards=2", "--shard_index=1")
    assert first.returncode == 0, first.stderr
    assert f"{halves}: 2 of 5 answers; the last process to finish" in first.stdout
    assert not (halves / "results.json").exists()
    second = ask(shapes, model, halves, "--baselines=blind", "--num_shards=2", "--shard_index=0")
    assert second.returncode == 0, second.stderr
    assert (halves / "results.json").read_text() == (tmp_path / "whole/results.json").read_text()
    again = ask(shapes, model, tmp_path / "whole", "--baselines=blind")
    assert again.stdout.splitlines() == whole.stdout.splitlines()
    other = ask(shapes, model, tmp_path / "whole", "--template=owl")
    assert other.returncode == 1 and "template" in other.stderr


def test_owleval_is_rated_by_people(model, tmp_path):
    """Two questions of a dialogue about one picture, beside another system's answers."""
    data = tmp_path / "owleval"
    (data / "cases").mkdir(parents=True)
    Image.new("RGB", (20, 20), "red").save(data / "cases" / "1.jpg")
    questions = [
        {"image": "1.jpg", "question_id": 1, "question": "What is it?", "ability": "a,b"},
        {"image": "1.jpg", "question_id": 2, "question": "And why?", "ability": "f"},
    ]
    turns = (["single_turn", "multi_turn"], ["multi_turn"])
    records = [q | {"category": turn} for q, turn in zip(questions, turns, strict=True)]
    (data / "questions.jsonl").write_text("".join(f"{json.dumps(q)}\n" for q in records))
    other = tmp_path / "other.jsonl"
    answers = [q | {"answer": "Red.", "model_id": "other"} for q in questions]
    other.write_text("".join(f"{json.dumps(answer)}\n" for answer in answers))
    flags = [
        *("-m", "owl_jax.evaluate", "--benchmark=owleval", f"--data={data}", "--name=owlet"),
        *(f"--output={tmp_path / 'out'}", f"--systems={other}", "--max_new_tokens=3"),
        f"--model={model}",
    ]
    asked = forked.run(*flags)
    assert asked.returncode == 0, asked.stderr
    assert asked.stdout.splitlines()[-1] == str(tmp_path / "out" / "rating.html")
    published = (tmp_path / "out" / "published.jsonl").read_text().splitlines()
    assert [json.loads(line)["model_id"] for line in published] == ["owlet", "owlet"]

    grades = {token_of(system, id, 0): "B" for system in ("owlet", "other") for id in "12"}
    ratings = tmp_path / "ann.json"
    ratings.write_text(json.dumps({"rater": "Ann", "grades": grades}))
    rated = forked.run(*flags, f"--ratings={ratings}")
    assert rated.stdout.splitlines()[-1] == str(tmp_path / "out" / "ratings.html")
    tally = json.loads((tmp_path / "out" / "ratings.json").read_text())
    assert tally["systems"]["owlet"]["multi_turn"] == {"A": 0, "B": 1, "C": 0, "D": 0}
    assert Page(tmp_path / "out" / "ratings.html").text.startswith("OwlEval: people's grades")

    # Ratings are read before the model is asked anything.
    ratings.write_text(json.dumps({"rater": "Ann", "grades": {"0" * 20: "B"}}))
    fresh = [flag.replace(str(tmp_path / "out"), str(tmp_path / "fresh")) for flag in flags]
    refused = forked.run(*fresh, f"--ratings={ratings}")
    assert refused.returncode == 1 and "1 of 1 grades are for answers that are" in refused.stderr
    assert not (tmp_path / "fresh").exists()

    pope = forked.run(*[flag.replace("owleval", "pope") for flag in flags])
    assert "--systems and --ratings: people do not rate pope" in pope.stderr
