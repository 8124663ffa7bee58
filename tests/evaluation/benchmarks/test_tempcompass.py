import json

import pytest

from owl_jax.errors import UserError
from owl_jax.evaluation.benchmark import Judged, Medium
from owl_jax.evaluation.benchmarks.tempcompass import RULES, TempCompass
from owl_jax.evaluation.scorers.right_or_wrong import is_correct

BENCHMARK = TempCompass()
CAPTIONS = "Which one?\nCaption A: It flies.\nCaption B: It sits."
OPTIONS = "Which one?\nOption 1: It flies.\nOption 2: It sits."


@pytest.mark.parametrize(
    ("kind", "answer", "truth", "right"),
    [
        ("multi-choice", "B. sits", "B. sits", True),
        ("multi-choice", "B", "B. sits", True),
        ("multi-choice", "B) flies", "B. sits", True),
        ("multi-choice", "A.", "B. sits", False),
        ("multi-choice", "(B)", "B. sits", None),
        ("multi-choice", "E.", "B. sits", None),
        ("multi-choice", "b", "B. sits", None),
        ("multi-choice", "", "B. sits", None),
        ("yes_no", "YES, it is", "yes", True),
        ("yes_no", "Nothing moves", "no", True),  # begins with "no"
        ("yes_no", "Not sure", "yes", False),
        ("yes_no", "It does", "yes", None),
        ("caption_matching", "Caption B: It sits.", "Caption B: It sits.", True),
        ("caption_matching", "It sits.", "Caption B: It sits.", True),
        ("caption_matching", "B) It sits.", "Caption B: It sits.", True),
        ("caption_matching", "Caption A.", "Caption B: It sits.", False),
        ("caption_matching", "B.", "Caption B: It sits.", True),
        ("caption_matching", "It flies", "Caption A: It flies.", None),
        ("caption_matching", "", "Caption A: It flies.", None),
        ("captioning", "It sits.", "B. sits", None),
    ],
)
def test_rules(kind, answer, truth, right):
    assert RULES[kind](answer, CAPTIONS, truth) is right


def test_numbered_captions():
    assert RULES["caption_matching"]("2.", OPTIONS, "Option 2: It sits.") is True
    assert RULES["caption_matching"]("Option 1", OPTIONS, "Option 2: It sits.") is False


@pytest.mark.parametrize(
    ("reply", "right"),
    [
        ("Correct", True),
        ("Correct, not Incorrect", True),
        ("Incorrect. Correct would be B", False),
        ("It is Correct", True),
        ("It is Incorrect, not Correct", False),
        ("correct", None),
        ("", None),
    ],
)
def test_what_the_judge_says(reply, right):
    assert is_correct(reply) is right


def write(folder, meta=None, **questions):
    """One question of each kind about one video, unless given."""
    (folder / "questions").mkdir(exist_ok=True)
    meta = {"v1": {"eval_dim": {"speed": {"type": "absolute speed"}, "order": {}}}, **(meta or {})}
    (folder / "meta_info.json").write_text(json.dumps(meta))
    whole = {
        "multi_choice": {"v1": {"speed": [{"question": "How?\nA. fast", "answer": "A. fast"}]}},
        "yes_no": {"v1": {"order": [{"question": "Well?", "answer": "no"}]}},
        "caption_matching": {"v1": {"speed": [{"question": CAPTIONS, "answer": "Caption A: It."}]}},
        "captioning": {"v1": {"speed": [{"question": "Write:", "answer": "A. fast"}]}},
    } | questions
    for kind, value in whole.items():
        name = "multi-choice" if kind == "multi_choice" else kind
        (folder / "questions" / f"{name}.json").write_text(json.dumps(value))
    return folder


def test_the_questions(tmp_path):
    items = BENCHMARK.read(write(tmp_path))
    assert [item.id for item in items] == [
        "multi-choice/v1/speed/0",
        "yes_no/v1/order/0",
        "caption_matching/v1/speed/0",
        "captioning/v1/speed/0",
    ]
    medium = Medium("video", tmp_path / "videos" / "v1.mp4")
    assert [BENCHMARK.question(item).parts for item in items] == [
        (medium, "How?\nA. fast\nPlease directly give the best option:"),
        (medium, "Well?\nPlease answer yes or no:"),
        (medium, f"{CAPTIONS}\nPlease directly give the best option:"),
        (medium, "Write:"),
    ]
    assert [item.fields["fine_aspect"] for item in items[:2]] == ["absolute speed", "order"]


def judge(items, answers, script):
    """script: replies to each attempt, by the kind of question."""
    calls = []

    def ask(given):
        calls.extend(given)
        return [script[call.id.split("/")[0]][call.attempt] for call in given]

    verdicts = BENCHMARK.judge(items, answers, ask)
    return calls, [
        Judged(item, answers[item.id], verdict)
        for item, verdict in zip(items, verdicts, strict=True)
    ]


def test_a_judge_that_says_neither_is_asked_ten_times(tmp_path):
    items = BENCHMARK.read(write(tmp_path))
    script = {
        "multi-choice": ["hm", "hm", "Correct"],
        "yes_no": ["no idea"] * 10,
        "captioning": ["Reasoning: so.\nAnswer: A. fast"],
    }
    answers = {
        "multi-choice/v1/speed/0": "quick</s>",
        "yes_no/v1/order/0": "It does",
        "caption_matching/v1/speed/0": " A</s> ",
        "captioning/v1/speed/0": "It is fast.</s>",
    }
    calls, judged = judge(items, answers, script)
    assert [one.verdict.score for one in judged] == [1.0, 0.0, 1.0, 1.0]
    assert [one.verdict.parsed for one in judged] == ["right", None, "right", "A. fast"]
    asked = [call.id.split("/")[0] for call in calls]
    assert {kind: asked.count(kind) for kind in script} == {
        "multi-choice": 3,
        "yes_no": 10,
        "captioning": 1,
    }
    prompts = {call.id.split("/")[0]: call.prompt for call in calls}
    assert prompts["multi-choice"].endswith(
        "Multi-Choice Question:\nHow?\nA. fast\nGround-Truth Answer: A. fast\n"
        "Model Prediction: quick"
    )
    assert prompts["captioning"].endswith(
        "Video Description:It is fast.\nMulti-Choice Question:\nHow?\nA. fast\nAnswer:"
    )
    assert BENCHMARK.headline_value(judged) == 75.0
    scores = BENCHMARK.scores(judged)["yes_no"]["with_judge"]
    assert scores["aspects"] == {"order": 0.0, "avg": 0.0}  # no division by zero for the others


def test_a_judge_that_fails_is_not_asked_again_and_gives_no_score(tmp_path):
    items = BENCHMARK.read(write(tmp_path))[3:]
    calls, [one] = judge(items, {items[0].id: "It."}, {"captioning": [None]})
    assert (len(calls), one.verdict.score) == (1, None)


@pytest.mark.parametrize(
    ("reply", "score"),
    [
        ("", -1.0),
        ("Answer: B. x\nAnswer: A. fast", 1.0),
        ("A. fast", 1.0),
        ("Answer: A. fast or B. slow", 0.0),
        ("Answer: A", 0.0),
        ("Answer: None of the choices are correct", 0.0),
    ],
)
def test_captions_are_judged_by_a_question(reply, score, tmp_path):
    items = BENCHMARK.read(write(tmp_path))[3:]
    _, [one] = judge(items, {items[0].id: "It."}, {"captioning": [reply]})
    assert one.verdict.score == score
    assert BENCHMARK.variants([one])["lmms_eval_with_judge"] == {"captioning": max(score, 0) * 100}


def test_the_official_prompts_are_read_from_their_script(tmp_path):
    write(tmp_path)
    names = ("a multi-choice question", "a Yes/No question", "a caption matching question")
    prompts = [f"You will receive {name}." for name in (*names, "a video description")]
    text = "".join(f"p{n} = {prompt!r}\n" for n, prompt in enumerate(prompts))
    (tmp_path / "prompt_templates.py").write_text(text)
    items = BENCHMARK.read(tmp_path)
    assert [item.fields["judge_prompt"] for item in items] == prompts


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"yes_no": {"v1": {"colour": [{"question": "?", "answer": "no"}]}}}, "unknown aspect"),
        ({"yes_no": {"v1": {"action": [{"question": "?", "answer": "no"}]}}}, "has no type"),
        ({"yes_no": {"v2": {"speed": [{"question": "?", "answer": "no"}]}}}, "has no type"),
        ({"yes_no": {"v1": {"speed": [{"question": "?"}]}}}, "v1/speed/0: found the keys question"),
        ({"multi_choice": {}}, "captioning.json: v1/speed/0: multi-choice.json has no question"),
        ({"yes_no": []}, "yes_no.json: found"),
    ],
)
def test_other_files(changed, words, tmp_path):
    with pytest.raises(UserError, match=words):
        BENCHMARK.read(write(tmp_path, **changed))


def test_a_missing_file(tmp_path):
    with pytest.raises(UserError, match=r"meta_info.json: No such file"):
        BENCHMARK.read(tmp_path)
