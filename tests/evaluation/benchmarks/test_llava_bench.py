import json
import shutil

import pytest
from recorded import SCORES

from owl_jax.errors import UserError
from owl_jax.evaluation.benchmark import Judged
from owl_jax.evaluation.benchmarks.llava_bench import LlavaBench

BENCHMARK = LlavaBench()
DATA = SCORES / "llava_bench"


def judge(*replies):
    items = BENCHMARK.read(DATA)[: len(replies)]
    verdicts = BENCHMARK.judge(items, {item.id: "so" for item in items}, lambda calls: replies)
    return [Judged(item, "so", verdict) for item, verdict in zip(items, verdicts, strict=True)]


@pytest.mark.parametrize(
    ("reply", "pair"),
    [
        ("8 9\nBecause", (8.0, 9.0)),
        ("8,9.5", (8.0, 9.5)),
        ("8, 9", (-1.0, -1.0)),
        ("8 9 ", (-1.0, -1.0)),
        ("8  9", (-1.0, -1.0)),
        ("\n8 9", (-1.0, -1.0)),
        ("8/10 9/10", (-1.0, -1.0)),
        ("", (-1.0, -1.0)),
    ],
)
def test_the_first_line(reply, pair):
    [one] = judge(reply)
    assert (one.verdict.details["reference"], one.verdict.score) == pair
    assert (one.verdict.parsed is None) == (pair == (-1.0, -1.0))


def test_a_ratio_of_means_in_which_unread_lines_count():
    judged = judge("8 4", "2 4", "none")
    assert BENCHMARK.headline_value(judged) == pytest.approx(100 * 7 / 9)
    assert BENCHMARK.scores(judged)["all"] == {"relative": 77.8, "gpt4": 30.0, "model": 23.3}
    assert BENCHMARK.variants(judge("8/10 9/10"))["lmms_eval"]["all"] == 125.0
    assert BENCHMARK.headline_value(judge("0 4")) == 0.0


def test_what_is_asked():
    item = BENCHMARK.read(DATA)[0]
    calls = []
    BENCHMARK.judge([item], {item.id: "MINE"}, lambda given: calls.extend(given) or [None])
    [call] = calls
    rule = json.loads((DATA / "rule.json").read_text())["llava_bench_conv"]["prompt"]
    assert call.system.startswith("You are a helpful and precise assistant")
    assert call.prompt == (
        f"[Context]\n{item.fields['context']}\n\n[Question]\n{item.question}\n\n"
        f"[Assistant 1]\n{item.truth}\n\n[End of Assistant 1]\n\n"
        f"[Assistant 2]\nMINE\n\n[End of Assistant 2]\n\n[System]\n{rule}\n\n"
    )
    assert BENCHMARK.judge([item], {item.id: ""}, None)[0].score is None
    assert judge(None)[0].verdict.score is None


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        (
            "context.jsonl",
            '{"image": "1.jpg", "caption": "x"}',
            "nothing for '001.jpg' of question",
        ),
        ("answers_gpt4.jsonl", '{"question_id": 99, "text": "x"}', "nothing for 0 of question 0"),
        ("rule.json", "{}", "nothing for 'llava_bench_conv'"),
        ("rule.json", '{"llava_bench_conv": {}}', "llava_bench_conv: found the keys ; expected"),
        ("questions.jsonl", '{"id": 1}', "line 1: found the keys id; expected question_id, image"),
    ],
)
def test_other_files(name, text, words, tmp_path):
    data = tmp_path / "data"
    shutil.copytree(DATA, data)
    (data / name).write_text(text)
    with pytest.raises(UserError, match=words):
        BENCHMARK.read(data)
