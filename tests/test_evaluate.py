"""The command owl_jax.evaluate."""

import json

import forked
import pytest
from html_page import Page
from PIL import Image

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
        (["--model=m", "--template=lava"], "--template=lava: expected official, llava, owl"),
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
