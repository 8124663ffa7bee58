"""Every recorded number of the benchmarks with free answers and of those about videos."""

import json

import pytest
from recorded import SCORES, difference, judged_of, numbers_of, replies_of

from owl_jax.evaluation.benchmark import Judged
from owl_jax.evaluation.benchmarks import BENCHMARKS
from owl_jax.evaluation.benchmarks.mvbench import MvBench
from owl_jax.evaluation.benchmarks.tempcompass import TempCompass
from owl_jax.evaluation.scorers import vqa
from owl_jax.evaluation.scorers.lmms_eval_letters import first_letter, likeliest_letter
from owl_jax.evaluation.scorers.ptb_tokens import ptb_tokens

RULES = ("coco_caption", "mlvu", "mvbench", "vqav2")
JUDGED = ("llava_bench", "mmhal", "tempcompass")


@pytest.fixture(scope="module")
def judged():
    return {
        name: judged_of(BENCHMARKS[name], ask=replies_of(name) if name in JUDGED else None)
        for name in RULES + JUDGED
    }


@pytest.mark.parametrize("name", RULES + JUDGED)
def test_the_official_numbers(name, judged):
    numbers = numbers_of(name)
    official = {key: value for key, value in numbers.items() if key.startswith("official_")}
    scores = BENCHMARKS[name].scores(judged[name])
    assert difference(scores, numbers.get("official", official)) == []


@pytest.mark.parametrize(
    ("name", "variant"),
    [
        ("llava_bench", "lmms_eval"),
        ("mlvu", "lmms_eval"),
        ("mlvu", "micro_average_for_comparison"),
        ("mvbench", "lmms_eval"),
        ("mvbench", "vlmevalkit_check_ans"),
        ("tempcompass", "lmms_eval_with_judge"),
        ("vqav2", "lmms_eval"),
        ("vqav2", "mplug_owl2"),
    ],
)
def test_the_numbers_of_other_tools(name, variant, judged):
    expected = numbers_of(name)[variant]
    if isinstance(expected, dict):
        expected.pop("differs_on", None)
    assert difference(BENCHMARKS[name].variants(judged[name])[variant], expected) == []


def items_of(name, judged):
    """Pairs of our item and the recorded one."""
    ours = {one.item.id: one for one in judged[name]}
    recorded = {str(item["id"]): item for item in numbers_of(name)["items"]}
    assert ours.keys() == recorded.keys()
    return [(one, recorded[id]) for id, one in ours.items()]


def test_each_caption(judged):
    for one, recorded in items_of("coco_caption", judged):
        for name in ("Bleu_1", "Bleu_2", "Bleu_3", "Bleu_4", "ROUGE_L", "CIDEr"):
            assert one.verdict.details[name] == pytest.approx(recorded[name], abs=1e-9)


def test_each_caption_is_tokenised_as_by_stanford_s_tokenizer(judged):
    tokenized = json.loads((SCORES / "coco_caption" / "tokenized.json").read_text("utf-8"))
    for one in judged["coco_caption"]:
        expected = tokenized["references"][one.item.id]
        assert [" ".join(ptb_tokens(text)) for text in one.item.fields["captions"]] == expected
        assert [one.verdict.parsed or ""] == tokenized["answers"][one.item.id]


def test_each_answer_about_a_picture(judged):
    for one, recorded in items_of("vqav2", judged):
        answers = one.item.fields["answers"]
        assert round(100 * one.verdict.score, 2) == recorded["accuracy"]
        assert round(100 * vqa.owl2_accuracy(one.answer, answers), 2) == recorded["mplug_owl2"]
        lmms_eval = 100 * vqa.lmms_eval_accuracy(one.answer, answers)
        assert lmms_eval == pytest.approx(recorded["lmms_eval"])
        assert (one.verdict.parsed or "") == recorded["processed_if_answers_differ"]
        assert vqa.submission(one.answer) == recorded["llava_submission"]


def test_each_choice_about_a_short_video(judged):
    for one, recorded in items_of("mvbench", judged):
        assert bool(one.verdict.score) == recorded["official_answer_prompt"]
        raw = MvBench().scores([one])["official_raw"]["Avg"]
        assert (raw == 100) == recorded["official_raw"]
        choice = one.item.choices[ord(one.item.truth) - ord("A")]
        assert f"({one.item.truth}) {choice}" == recorded["truth"]
        assert (first_letter(one.answer) == one.item.truth) == recorded["lmms_eval"]


def test_each_choice_about_a_long_video(judged):
    for one, recorded in items_of("mlvu", judged):
        assert one.item.truth == recorded["answer"]
        assert bool(one.verdict.score) == recorded["official"]
        assert likeliest_letter(one.answer, "ABCD") == recorded["lmms_eval"]


def test_each_rating_of_hallucination(judged):
    for one, recorded in items_of("mmhal", judged):
        assert one.verdict.score == recorded["score"]
        assert (one.verdict.score < 3) == recorded["hallucination"]


def test_each_pair_of_scores(judged):
    for one, recorded in items_of("llava_bench", judged):
        assert [one.verdict.details["reference"], one.verdict.score] == recorded["official"]


def test_each_question_about_time(judged):
    numbers = numbers_of("tempcompass")
    ours = {one.item.id: one.verdict for one in judged["tempcompass"]}
    assert {id: verdict.score for id, verdict in ours.items()} == numbers["ratings"]["with_judge"]
    for id, rating in numbers["ratings"]["rules_only"].items():
        assert ours[id].details["by_rules"] == rating
    for id, parsed in numbers["captioning_parsed"].items():
        assert ours[id].parsed == parsed


def test_tempcompass_without_a_judge():
    judged = judged_of(TempCompass())
    expected = {
        kind: {"rules_only": tables["rules_only"]}
        for kind, tables in numbers_of("tempcompass")["official"].items()
        if "rules_only" in tables
    }
    assert difference(TempCompass().scores(judged), expected) == []
    kept = [one for one in judged if one.item.category != "captioning"]
    assert TempCompass().headline_value(judged) == TempCompass().headline_value(kept)


def test_the_numbers_of_some_items_can_be_computed(judged):
    """Intervals resample the items by groups, and tables take one category."""
    for name, all_of_them in judged.items():
        some = [Judged(one.item, one.answer, one.verdict) for one in all_of_them[:3]] * 2
        BENCHMARKS[name].scores(some)
        BENCHMARKS[name].variants(some)
        assert BENCHMARKS[name].headline_value(some) <= 1000
