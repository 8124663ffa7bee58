"""What is counted beside the official numbers, and the baselines."""

import json
from dataclasses import replace

import pytest
from html_page import Page

from owl_jax.errors import UserError
from owl_jax.evaluation.benchmark import Item, Verdict
from owl_jax.evaluation.benchmarks.pope import Pope
from owl_jax.evaluation.run import Task, evaluate_answers, evaluate_model
from owl_jax.evaluation.scoring import baselines, check_items, gain_and_leakage, score


class Letters(Pope):
    """A benchmark of two choices; a judge reads what is no letter."""

    name = "letters"
    kind = "choice"

    def judge(self, items, answers, ask):
        verdicts = []
        for item in items:
            answer = answers[item.id]
            if answer == "?" and ask is not None:
                [answer] = ask([item.id])
            parsed = answer if answer in ("A", "B") else None
            missing = answer is None
            verdicts.append(Verdict(parsed, None if missing else float(parsed == item.truth)))
        return verdicts

    def headline_value(self, judged):
        return sum(one.verdict.score for one in judged) / len(judged)


def items(truths):
    return [
        Item(str(i), "?", choices=("x", "y"), truth=truth, category=truth)
        for i, truth in enumerate(truths)
    ]


def test_what_could_not_be_read_and_what_is_missing_are_counted():
    found = score(Letters(), items("AAB"), {"0": "A", "1": "hm"})
    assert (found.value, found.unparsed, found.unanswered, found.unjudged) == (1 / 3, 2, 1, 0)
    assert [one.answer for one in found.judged] == ["A", "hm", ""]
    assert [(c.name, c.value, c.items) for c in found.categories] == [("A", 0.5, 2), ("B", 0, 1)]


def test_a_verdict_that_the_judge_left_open_counts_nowhere():
    answers = {str(i): "A" for i in range(99)} | {"99": "?"}
    found = score(Letters(), items("A" * 100), answers, lambda calls: [None])
    assert (found.value, found.unjudged, len(found.judged)) == (1, 1, 100)
    assert found.categories[0].items == 99


def test_models_are_compared_where_the_judge_has_a_verdict_on_both(tmp_path):
    class Ask:
        name = "no judge"

        def ask(self, calls):
            return [None]

        def agreement(self, *_):
            return None

    task = Task(Letters(), items("A" * 100), "data", tmp_path / "first", judge=Ask())
    answers = tmp_path / "answers.jsonl"
    for unread, output, compare in ((0, "first", []), (1, "second", [tmp_path / "first"])):
        given = ({"id": str(i), "answer": "?" if i == unread else "A"} for i in range(100))
        answers.write_text("".join(f"{json.dumps(record)}\n" for record in given))
        task = replace(task, output=tmp_path / output, compare=compare)
        assert evaluate_answers(task, answers, output)["unjudged"] == 1
    assert "second minus first" in Page(tmp_path / "second" / "report.html").text


def test_a_wrong_comparison_is_found_before_the_model_is_asked(tmp_path):
    task = Task(Letters(), items("A"), "data", tmp_path / "out", compare=[tmp_path / "none"])
    with pytest.raises(UserError, match="No such file or directory"):
        evaluate_model(task, None, None, "model", print)


def test_a_judge_that_fails_too_often_stops_the_run():
    with pytest.raises(UserError, match=r"the judge failed for 1 of 3 answers \(2\), more than 2%"):
        score(Letters(), items("AAA"), {"0": "A", "1": "A", "2": "?"}, lambda calls: [None])


def test_a_judged_benchmark_needs_its_judge():
    benchmark = Letters()
    benchmark.needs_judge = True
    with pytest.raises(
        UserError, match="letters: 1 answers are scored by a judge; give --judge_url"
    ):
        score(benchmark, items("A"), {"0": "A"})
    assert baselines(benchmark, items("A")) == {}


def test_baselines_are_constants_and_the_most_frequent_truth():
    assert baselines(Letters(), items("AAAB")) == {
        'always "A"': 0.75,
        'always "B"': 0.25,
        'the most frequent answer, "A"': 0.75,
    }


def test_an_id_that_is_there_twice_is_refused():
    with pytest.raises(UserError, match=r"--data=D: 1 ids are there twice, such as 0"):
        check_items([*items("A"), *items("A")], "--data=D")


def test_gain_is_what_pictures_add_and_leakage_what_training_saw():
    found = gain_and_leakage(seen=0.6, blind=0.4, base=0.3)
    assert found == pytest.approx({"multi-modal gain": 0.2, "multi-modal leakage": 0.1})
    found = gain_and_leakage(seen=0.3, blind=0.4, base=0.5)
    assert found == pytest.approx({"multi-modal gain": -0.1, "multi-modal leakage": 0})


def test_data_without_questions_is_no_data():
    with pytest.raises(UserError, match="data has no questions; expected at least one"):
        check_items([], "data")
