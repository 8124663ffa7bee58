"""Every recorded number of the benchmarks of choices and of those of yes or no."""

import pytest
from college_files import write_recorded
from recorded import SCORES, difference, judged_of, numbers_of, replies_of

from owl_jax.evaluation.benchmark import JudgeCall, Judged
from owl_jax.evaluation.benchmarks import BENCHMARKS, mme, mme_realworld, mmmu_pro, scienceqa
from owl_jax.evaluation.benchmarks.mmbench import MmBench, lmms_eval_static
from owl_jax.evaluation.benchmarks.mmmu import Mmmu, lmms_eval
from owl_jax.evaluation.benchmarks.mmmu_rows import options
from owl_jax.evaluation.benchmarks.seedbench import SeedBench, first_character
from owl_jax.evaluation.given_answers import read_answers
from owl_jax.evaluation.scorers import mmmu, yes_no
from owl_jax.evaluation.scorers.choice import lettered, vlmevalkit
from owl_jax.evaluation.scorers.lmms_eval_letters import likeliest_letter

COLLEGE = ("mmmu", "mmmu_pro")
JUDGED = ("hallusionbench", "mmbench")
RULES = ("mme", "mme_realworld", "mmstar", "pope", "scienceqa", "seedbench", "wemath")
ALL = (*COLLEGE, *JUDGED, *RULES)

# What the records have beside the official numbers.
VARIANTS = [
    ("hallusionbench", "lmms_eval_images_only"),
    ("hallusionbench", "vlmevalkit_images_only_exact_matching"),
    ("mmbench", "lmms_eval_static"),
    ("mme", "official_detail"),
    ("mme", "lmms_eval"),
    ("mme", "vlmevalkit_exact_matching"),
    ("mme_realworld", "lmms_eval"),
    ("mmmu", "lmms_eval"),
    ("mmmu_pro", "lmms_eval"),
    ("mmstar", "derived_accuracy"),
    ("mmstar", "lmms_eval"),
    ("mmstar", "vlmevalkit_exact_matching"),
    ("pope", "official_mean_of_three"),
    ("pope", "lmms_eval"),
    ("pope", "vlmevalkit_exact_matching"),
    ("scienceqa", "lmms_eval"),
    ("seedbench", "llava_exact_text"),
    ("seedbench", "lmms_eval"),
    ("seedbench", "vlmevalkit_exact_matching"),
    ("wemath", "same_with_true_total"),
]
BESIDE = {name for _, name in VARIANTS} | {"lmms_eval_same_verdicts"}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Where the questions are."""
    parquet = {
        name: write_recorded(name, tmp_path_factory.mktemp("college") / name) for name in COLLEGE
    }
    return {name: parquet.get(name, SCORES / name) for name in ALL}


@pytest.fixture(scope="module")
def judged(folders):
    return {
        name: judged_of(
            BENCHMARKS[name],
            ask=replies_of(name) if name in JUDGED else None,
            data=folders[name],
            unanswered=["48"] if name == "scienceqa" else (),
        )
        for name in ALL
    }


def pairs(name, judged):
    """Our item and the recorded one."""
    recorded = {str(item["id"]): item for item in numbers_of(name)["items"]}
    assert {one.item.id for one in judged[name]} == recorded.keys()
    return [(one, recorded[one.item.id]) for one in judged[name]]


@pytest.mark.parametrize("name", [name for name in ALL if name != "seedbench"])
def test_the_official_numbers(name, judged):
    numbers = numbers_of(name)
    named = {
        key: value
        for key, value in numbers.items()
        if key.startswith("official_") and key not in BESIDE
    }
    found = BENCHMARKS[name].scores(judged[name])
    assert difference(found, numbers.get("official", named)) == []


@pytest.mark.parametrize(("name", "variant"), VARIANTS)
def test_the_numbers_beside_them(name, variant, judged):
    found = BENCHMARKS[name].variants(judged[name])[variant]
    assert difference(found, numbers_of(name)[variant]) == []


def test_seed_bench_by_the_least_loss():
    numbers, items = numbers_of("seedbench"), SeedBench().read(SCORES / "seedbench")
    answers = read_answers(SCORES / "seedbench" / "losses.jsonl", items)
    assert answers == {item["id"]: item["official_choice_ranking"] for item in numbers["items"]}
    verdicts = SeedBench().judge(items, answers, None)
    ranked = [
        Judged(item, answers[item.id], verdict)
        for item, verdict in zip(items, verdicts, strict=True)
    ]
    expected = {"official_choice_ranking": numbers["official_choice_ranking"]}
    assert difference(SeedBench().scores(ranked), expected) == []


def test_seed_bench_has_no_official_number_for_generated_text(judged):
    expected = {"llava_exact_text": numbers_of("seedbench")["llava_exact_text"]}
    assert difference(SeedBench().scores(judged["seedbench"]), expected) == []


def test_mmbench_without_a_judge():
    found = judged_of(MmBench())
    official = numbers_of("mmbench")["official"]
    expected = {"exact_matching": official["exact_matching"]}
    assert difference(MmBench().scores(found), expected) == []
    assert MmBench().headline_value(found) == 0.25


def test_the_judge_of_mmbench_is_asked_no_more_than_needed():
    asked = []

    def ask(calls):
        asked.extend(calls)
        return replies_of("mmbench")(calls)

    judged_of(MmBench(), ask=ask)
    calls = numbers_of("mmbench")["judge_calls"]["ids"]
    assert sorted(call.id for call in asked) == sorted(map(str, calls))
    assert all(isinstance(call, JudgeCall) and call.attempt < 3 for call in asked)


def test_each_letter_of_mmbench(judged):
    for one, recorded in pairs("mmbench", judged):
        assert one.item.truth == recorded["answer"]
        assert (one.verdict.details["read"] or False) == recorded["official"]
        choices = lettered(one.item.choices)
        assert (lmms_eval_static(one.answer, choices) or False) == recorded["lmms_eval"]


def test_each_verdict_of_hallusionbench(judged):
    for one, recorded in pairs("hallusionbench", judged):
        assert one.verdict.details["code"] == recorded["judged"]
        assert one.verdict.details["same"] == (recorded["same"] == "1")
        assert one.verdict.score == recorded["correct"]
        if one.item.media:
            assert (yes_no.whole_word(one.answer) or "Unknown") == recorded["vlmevalkit"]


def test_each_answer_of_mme(judged):
    for one, recorded in pairs("mme", judged):
        assert one.item.truth == recorded["answer"]
        assert (one.verdict.parsed or "other").lower() == recorded["official"]
        assert (mme.lmms_eval(one.answer) or "other").lower() == recorded["lmms_eval"]
        assert (yes_no.whole_word(one.answer) or "Unknown") == recorded["vlmevalkit"]


def test_each_letter_of_mme_realworld(judged):
    for one, recorded in pairs("mme_realworld", judged):
        choices = one.item.fields["choices"]
        assert one.item.truth == recorded["answer"]
        assert (one.verdict.parsed or "") == recorded["official"]
        assert (mme_realworld.lmms_eval(one.answer) or "") == recorded["lmms_eval"]
        assert (mme_realworld.vlmevalkit(one.answer, choices) or "") == recorded["vlmevalkit"]


def test_each_answer_of_mmmu(judged):
    for one, recorded in pairs("mmmu", judged):
        if recorded["type"] == "open":
            assert one.verdict.details["open"] == recorded["official"]
            assert one.verdict.score == recorded["correct"]
            assert mmmu.open_answer(one.answer) == recorded["lmms_eval"]
            continue
        assert one.item.truth == recorded["answer"]
        assert (one.verdict.parsed is None) == recorded["random"]
        assert one.verdict.parsed in (None, recorded["official"])
        letter = lmms_eval(one.answer, options(one.item))
        assert (letter is None) == recorded["lmms_random"]
        assert letter in (None, recorded["lmms_eval"])


def test_each_letter_of_mmmu_pro(judged):
    for one, recorded in pairs("mmmu_pro", judged):
        assert one.item.truth == recorded["answer"]
        assert (one.verdict.parsed is None) == recorded["random"]
        assert one.verdict.parsed in (None, recorded["official"])
        letter = mmmu_pro.lmms_eval(one.answer, options(one.item))
        assert (letter is None) == recorded["lmms_random"]
        assert letter in (None, recorded["lmms_eval"])


def test_each_letter_of_mmstar(judged):
    for one, recorded in pairs("mmstar", judged):
        assert one.item.truth == recorded["answer"]
        assert bool(one.verdict.score) == recorded["official_hit"]
        assert likeliest_letter(one.answer, "ABCD") == recorded["lmms_eval"]
        found = vlmevalkit(one.answer, lettered(one.item.choices))
        assert (found or False) == recorded["vlmevalkit"]


def test_each_answer_of_pope(judged):
    for one, recorded in pairs("pope", judged):
        assert one.item.truth.lower() == recorded["label"]
        assert one.verdict.parsed.lower() == recorded["official"]
        assert one.answer.strip().lower() == recorded["lmms_eval"]
        assert (yes_no.whole_word(one.answer) or "Unknown") == recorded["vlmevalkit"]


def test_each_letter_of_scienceqa(judged):
    for one, recorded in pairs("scienceqa", judged):
        assert one.item.truth == recorded["answer"]
        assert (one.verdict.parsed or "FAILED") == recorded["official_llava"]
        assert bool(one.verdict.score) == recorded["correct"]
        lmms_eval = scienceqa.lmms_eval(one.answer) == one.item.truth
        assert lmms_eval == recorded["lmms_eval"]


def test_each_letter_of_seed_bench(judged):
    for one, recorded in pairs("seedbench", judged):
        assert one.item.truth == recorded["answer"]
        assert bool(one.verdict.score) == recorded["llava"]
        assert first_character(one.answer) == recorded["lmms_eval"]
        found = vlmevalkit(one.answer, lettered(one.item.choices))
        assert (found or False) == recorded["vlmevalkit"]


def test_each_letter_of_we_math(judged):
    for one, recorded in pairs("wemath", judged):
        assert one.item.truth == recorded["answer"]
        assert one.verdict.parsed == recorded["official"]
        assert bool(one.verdict.score) == recorded["correct"]


def test_unread_answers_of_mmmu_count_as_chance(judged):
    """The headline number does not depend on a seed."""
    scores = Mmmu().scores(judged["mmmu"])
    unread = [one for one in judged["mmmu"] if one.verdict.parsed is None]
    assert {one.item.id for one in unread} == set(scores["random_ids"])
    certain = scores["overall_if_random_is_wrong"] * len(judged["mmmu"])
    chance = sum(1 / len(one.item.choices) for one in unread)
    expected = pytest.approx((certain + chance) / len(judged["mmmu"]))
    assert Mmmu().headline_value(judged["mmmu"]) == expected


@pytest.mark.parametrize("name", ALL)
def test_the_numbers_of_some_items_can_be_computed(name, judged):
    """Intervals resample the items by groups; a user may score the first hundred."""
    benchmark, some = BENCHMARKS[name], judged[name][:7]
    assert isinstance(benchmark.headline_value(some), float)
    assert benchmark.scores(some)
    assert benchmark.variants(some)


@pytest.mark.parametrize("name", ALL)
def test_each_question_shows_its_media(name, judged):
    for one in judged[name]:
        parts = BENCHMARKS[name].question(one.item).parts
        assert [part for part in parts if not isinstance(part, str)] == list(one.item.media)
