import json

import pytest

from owl_jax.errors import UserError
from owl_jax.evaluation.benchmark import Judged, Medium
from owl_jax.evaluation.benchmarks.mlvu import Mlvu, MlvuOpen
from owl_jax.evaluation.scorers.lmms_eval_letters import likeliest_letter

CHOICE = {
    "video": "a.mp4",
    "question": "What flies?",
    "candidates": ["A cat", "An owl"],
    "answer": "An owl",
}
SCENE = {
    "video": "b.mp4",
    "question": "What is there?",
    "answer": "An owl.",
    "scoring_points": "owl",
}
SUMMARY = {"video": "c.mp4", "question": "Summarise.", "answer": "It flies."}


def write(folder, **files):
    (folder / "json").mkdir(exist_ok=True)
    for stem, records in files.items():
        (folder / "json" / f"{stem.removeprefix('_')}.json").write_text(json.dumps(records))
    return folder


def test_the_question(tmp_path):
    [item] = Mlvu().read(write(tmp_path, _1_plotQA=[CHOICE]))
    assert (item.id, item.category, item.truth) == ("1_plotQA/0", "plotQA", "B")
    assert item.media == (Medium("video", tmp_path / "video" / "1_plotQA" / "a.mp4"),)
    question = Mlvu().question(item)
    assert question.parts[0].startswith("Carefully watch this video and pay attention to every")
    assert question.parts[2].endswith("(A) A cat\n(B) An owl\nOnly give the best option.")
    assert question.answer_start == "Best Option: ("


@pytest.mark.parametrize(
    ("answer", "parsed", "score"),
    [
        ("B", "B", 1.0),
        ("(B)", "B", 1.0),
        ("B) An owl", "B", 1.0),
        ("B.", None, 0.0),
        ("b", None, 0.0),
        ("(A) does not fit, (B) does", "A", 0.0),
        (") B", None, 0.0),
        ("", None, 0.0),
        ("AB", None, 0.0),
    ],
)
def test_answers(answer, parsed, score, tmp_path):
    items = Mlvu().read(write(tmp_path, _1_plotQA=[CHOICE]))
    [verdict] = Mlvu().judge(items, {items[0].id: answer}, None)
    assert (verdict.parsed, verdict.score) == (parsed, score)


@pytest.mark.parametrize(
    ("answer", "letter"),
    [
        ("B. because A) is wrong", "B"),
        ("(A) is wrong, (C) fits", "C"),
        ("I choose D because A. is wrong", "A"),  # the last letter after the phrase
        ("not A: but B:", "B"),
        ("CBD", "D"),
        ("'B.'", "B"),
        ("nothing", ""),
        ("  ", ""),
    ],
)
def test_lmms_eval_s_letter(answer, letter):
    assert likeliest_letter(answer, "ABCD") == letter


def test_tasks_count_equally(tmp_path):
    items = Mlvu().read(write(tmp_path, _1_plotQA=[CHOICE] * 3, _4_count=[CHOICE]))
    answers = {item.id: "B" if item.category == "count" else "A" for item in items}
    verdicts = Mlvu().judge(items, answers, None)
    judged = [
        Judged(item, answers[item.id], verdict)
        for item, verdict in zip(items, verdicts, strict=True)
    ]
    assert Mlvu().scores(judged) == {"count": 100.0, "plotQA": 0.0, "Avg": 50.0}
    assert Mlvu().headline_value(judged) == 50.0
    assert Mlvu().variants(judged)["micro_average_for_comparison"] == 25.0


def judge_open(items, replies):
    calls = []

    def ask(given):
        calls.extend(given)
        return replies

    answers = {item.id: f"answer {item.id}" for item in items}
    verdicts = MlvuOpen().judge(items, answers, ask)
    judged = [
        Judged(item, answers[item.id], verdict)
        for item, verdict in zip(items, verdicts, strict=True)
    ]
    return calls, judged


def test_open_answers_get_two_grades(tmp_path):
    items = MlvuOpen().read(write(tmp_path, _8_sub_scene=[SCENE] * 2, _9_summary=[SUMMARY]))
    calls, judged = judge_open(
        items,
        [
            "Good. {'score_accuracy': 4.5, 'score_relevance': 5, 'total_score': 9.5}",
            "I cannot say. {'score_accuracy': 4}",
            '```json\n{"score_completeness": 2, "score_reliability": 3}\n```',
        ],
    )
    assert [one.verdict.score for one in judged] == [9.5, 0.0, 5.0]
    assert [one.verdict.parsed for one in judged] == ["4.5, 5", None, "2, 3"]
    assert MlvuOpen().scores(judged) == {
        "sub_scene": {"accuracy": 2.25, "relevance": 2.5, "total": 4.75},
        "summary": {"completeness": 2.0, "reliability": 3.0, "total": 5.0},
        "G-Avg": 4.875,
    }
    assert calls[0].prompt.endswith(
        "Question: What is there?\nScoring Points: owl\nRespondent's Answer: answer 8_sub_scene/0"
    )
    assert "Standard Answer: It flies.\n" in calls[2].prompt
    assert "score_accuracy" in calls[0].system and "score_reliability" in calls[2].system
    assert MlvuOpen().variants(judged) == {"judge_prompt": ["own"]}
    assert judge_open(items[:1], [None])[1][0].verdict.score is None


def test_the_official_prompt_of_the_judge_is_read_from_its_script(tmp_path):
    write(tmp_path, _9_summary=[SUMMARY])
    (tmp_path / "evaluate_summary.py").write_text(
        'import gone\nask(system="""Score it: {\'score_completeness\': n}""")\n'
    )
    [item] = MlvuOpen().read(tmp_path)
    assert item.fields["system"] == "Score it: {'score_completeness': n}"
    assert item.fields["judge_prompt"] == "official"
    (tmp_path / "evaluate_summary.py").write_text("print('another')")
    with pytest.raises(UserError, match=r"has no text with 'score_completeness'"):
        MlvuOpen().read(tmp_path)
    (tmp_path / "evaluate_summary.py").write_text("<html>")
    with pytest.raises(UserError, match=r"is no Python file"):
        MlvuOpen().read(tmp_path)


def test_other_files(tmp_path):
    with pytest.raises(UserError, match=r"has no json/4_count.json or .*dev set"):
        Mlvu().read(tmp_path)
    with pytest.raises(UserError, match=r"found no scoring_points"):
        MlvuOpen().read(write(tmp_path, _8_sub_scene=[SUMMARY]))
    with pytest.raises(UserError, match=r"1_plotQA.json: entry 1: found the keys .*candidates"):
        Mlvu().read(write(tmp_path, _1_plotQA=[SCENE]))
    with pytest.raises(UserError, match=r"'owl' is none of the candidates"):
        Mlvu().read(write(tmp_path, _1_plotQA=[{**CHOICE, "answer": "owl"}]))
