import json

import pytest

from owl_jax.errors import UserError
from owl_jax.evaluation.benchmark import Judged, Medium
from owl_jax.evaluation.benchmarks.mvbench import MvBench
from owl_jax.evaluation.scorers.lmms_eval_letters import first_letter

BENCHMARK = MvBench()
RECORD = {
    "video": "a.mp4",
    "question": "What now?",
    "candidates": ["Sits.", "Flies."],
    "answer": "Flies.",
    "start": 1.5,
    "end": 4.0,
}


def read(folder, stem, record):
    (folder / "json").mkdir(exist_ok=True)
    (folder / "json" / f"{stem}.json").write_text(json.dumps([record]))
    return BENCHMARK.read(folder)


def test_the_question(tmp_path):
    [item] = read(tmp_path, "action_sequence", RECORD)
    folder = tmp_path / "video" / "star" / "Charades_v1_480"
    assert item.media == (Medium("video", folder / "a.mp4", 1.5, 4.0),)
    question = BENCHMARK.question(item)
    system, medium, text = question.parts
    assert system.startswith("Carefully watch the video") and system.endswith("question.\n")
    assert medium == item.media[0]
    assert text == system + (
        "Question: What now?\nOptions:\n(A) Sits.\n(B) Flies.\nOnly give the best option."
    )
    assert question.answer_start == "Best option:("


def test_only_some_tasks_show_a_part_of_the_video(tmp_path):
    [item] = read(tmp_path, "fine_grained_pose", RECORD)
    assert item.media == (Medium("video", tmp_path / "video" / "nturgbd" / "a.mp4"),)
    assert (item.id, item.category) == ("fine_grained_pose/0", "Fine-grained Pose")


@pytest.mark.parametrize(
    ("answer", "parsed", "score"),
    [
        ("B", "B", 1.0),
        ("B) Flies.", "B", 1.0),
        ("(B)", "B", 1.0),
        ("b.", "B", 1.0),
        ("A", "A", 0.0),
        ("B:", None, 0.0),
        ("**B**", None, 0.0),
        ("The answer is B", None, 0.0),
        ("Flies.", None, 0.0),
        ("", None, 1.0),  # the official rule finds nothing in everything
        (" B", None, 1.0),
    ],
)
def test_answers(answer, parsed, score, tmp_path):
    items = read(tmp_path, "action_antonym", RECORD)
    [verdict] = BENCHMARK.judge(items, {items[0].id: answer}, None)
    assert (verdict.parsed, verdict.score) == (parsed, score)


def test_lmms_eval_leaves_empty_answers_out(tmp_path):
    [item] = read(tmp_path, "action_antonym", RECORD)
    pairs = [(answer, BENCHMARK.judge([item], {item.id: answer}, None)[0]) for answer in ("", "A")]
    judged = [Judged(item, answer, verdict) for answer, verdict in pairs]
    assert BENCHMARK.scores(judged)["official_answer_prompt"]["Avg"] == 50.0
    assert BENCHMARK.variants(judged)["lmms_eval"]["all_items"] == 0.0
    assert BENCHMARK.variants(judged[:1])["lmms_eval"] == {"Action Antonym": 0.0, "all_items": 0.0}


def test_the_first_line_is_a_variant(tmp_path):
    [item] = read(tmp_path, "action_antonym", RECORD)
    [verdict] = BENCHMARK.judge([item], {item.id: "B\nIt flies."}, None)
    assert verdict.score == 0.0
    one = Judged(item, "B\nIt flies.", verdict)
    assert BENCHMARK.variants([one])["official_first_line"] == 100.0


@pytest.mark.parametrize(
    ("answer", "letter"),
    [("b. it flies", "B"), ("a red cube", "A"), ("(C)", "C"), ("It is F", ""), ("so\nE", "E")],
)
def test_lmms_eval_s_letter(answer, letter):
    assert first_letter(answer) == letter


def without(key):
    return {name: value for name, value in RECORD.items() if name != key}


@pytest.mark.parametrize(
    ("stem", "record", "words"),
    [
        ("action_sequence", without("end"), "entry 1: found the keys .*expected video, question"),
        ("action_antonym", {**RECORD, "answer": "Swims."}, "'Swims.' is none of the candidates"),
        ("action_antonym", "text", "entry 1: found 'text'; expected an object"),
        ("unknown_task", RECORD, "no file such as json/action_sequence.json"),
    ],
)
def test_other_files(stem, record, words, tmp_path):
    with pytest.raises(UserError, match=words):
        read(tmp_path, stem, record)
