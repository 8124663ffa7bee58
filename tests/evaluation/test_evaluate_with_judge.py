"""The command owl_jax.evaluate with a judge."""

import json

import forked
import pytest
from judge_double import JudgeDouble


@pytest.fixture
def folder(tmp_path):
    """Four questions, of which a judge scores three, and the answers of some system."""
    records = [
        {"question": "Which bird?", "answer": "owl", "score": "judged", "category": "birds"},
        {"question": "Which bird?", "answer": "wren", "score": "judged", "category": "birds"},
        {"question": "Which cat?", "answer": "lynx", "score": "judged", "category": "cats"},
        {"question": "How many?", "answer": "two", "category": "numbers"},
    ]
    answers = ["an owl", "an owl", "a lynx", "2"]
    write(tmp_path / "data" / "mine.jsonl", records)
    write(
        tmp_path / "answers.jsonl",
        [{"id": number, "answer": answer} for number, answer in enumerate(answers, 1)],
    )
    return tmp_path


def write(path, records):
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(f"{json.dumps(record)}\n" for record in records))
    return path


def evaluate(folder, *arguments):
    return forked.run(
        *("-m", "owl_jax.evaluate", "--benchmark=jsonl", f"--data={folder / 'data'}"),
        *(f"--output={folder / 'out'}", f"--answers={folder / 'answers.jsonl'}"),
        *arguments,
    )


def results_of(folder):
    return json.loads((folder / "out" / "results.json").read_text())


def script(prompt, count):
    """One question gets another reply the second time."""
    if "lynx" in prompt and count:
        return "Incorrect"
    return "Incorrect" if "wren" in prompt else "Correct"


def test_a_judge_scores_answers_and_is_asked_once(folder):
    with JudgeDouble(script) as double:
        flags = [f"--judge_url={double.url}/", "--judge_model=judge"]
        result = evaluate(folder, *flags)
        assert result.returncode == 0, result.stderr
        assert "  the judge, asked twice: 67% equal scores of 3" in result.stdout
        results = results_of(folder)
        assert results["scores"] == {
            "accuracy": 0.75,
            "by_category": {"birds": 0.5, "cats": 1.0, "numbers": 1.0},
        }
        assert results["judge"] == f"judge at {double.url}"
        assert results["judge_agreement"]["equal_replies"] == pytest.approx(2 / 3)
        assert len(double.asked) == 6
        assert results["judge_questions"] == 3
        assert evaluate(folder, *flags).returncode == 0
        assert len(double.asked) == 6
    assert results_of(folder) == results
    kept = (folder / "out" / "judge_replies.jsonl").read_text().splitlines()
    assert len(kept) == 6


def test_recorded_replies_stand_for_a_judge(folder):
    replies = write(
        folder / "replies.jsonl",
        [{"id": number, "reply": "Correct"} for number in range(1, 4)],
    )
    result = evaluate(folder, f"--judge_replies={replies}")
    assert result.returncode == 0, result.stderr
    results = results_of(folder)
    assert results["headline"]["value"] == 1.0
    assert (results["judge"], results["judge_agreement"]) == ("replies in replies.jsonl", None)


def test_a_judge_that_was_asked_nothing_is_mentioned(folder):
    data = folder / "data" / "mine.jsonl"
    data.write_text(data.read_text().replace('"score": "judged", ', ""))
    replies = write(folder / "replies.jsonl", [{"id": 1, "reply": "Correct"}])
    result = evaluate(folder, f"--judge_replies={replies}")
    assert result.returncode == 0, result.stderr
    assert "  the judge was asked nothing: rules scored every answer" in result.stdout
    assert results_of(folder)["judge_questions"] == 0


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ([], "jsonl: 3 answers are scored by a judge; give --judge_url and --judge_model"),
        (["--judge_url=http://127.0.0.1:9/v1"], "--judge_url without --judge_model"),
        (["--judge_url=127.0.0.1:9", "--judge_model=m"], "--judge_url=127.0.0.1:9: expected the"),
        (["--judge_url=http://127.0.0.1:9/v1", "--judge_model=m"], "no judge there"),
        (
            ["--judge_url=http://a", "--judge_model=m", "--judge_fields={"],
            "--judge_fields is not JSON",
        ),
        (["--judge_url=http://a", "--judge_model=m", "--judge_fields=5"], "expected a JSON object"),
        (["--judge_url=http://a", "--judge_model=m", "--judge_replies=r"], "not both"),
        (["--judge_replies=missing.jsonl"], "missing.jsonl: No such file"),
    ],
)
def test_what_is_wrong_is_one_line(folder, flags, words):
    result = evaluate(folder, *flags)
    assert (result.returncode, result.stderr.count("\n")) == (1, 1), result.stderr
    assert words in result.stderr
    assert not (folder / "out" / "results.json").exists()
