"""Answers that the official rules read in unexpected ways, and where other tools read otherwise."""

import random

import pytest
from recorded import SCORES, judged_of, replies_of

from owl_jax.evaluation.benchmark import Item, Judged, Verdict
from owl_jax.evaluation.benchmarks import mme, mme_realworld, mmmu_pro, mmstar, scienceqa, wemath
from owl_jax.evaluation.benchmarks.hallusionbench import HallusionBench
from owl_jax.evaluation.benchmarks.mmbench import MmBench
from owl_jax.evaluation.benchmarks.mme import Mme
from owl_jax.evaluation.benchmarks.mme_realworld import MmeRealWorld
from owl_jax.evaluation.benchmarks.mmmu import Mmmu, lmms_eval
from owl_jax.evaluation.benchmarks.mmmu_pro import MmmuPro
from owl_jax.evaluation.benchmarks.pope import Pope
from owl_jax.evaluation.benchmarks.seedbench import SeedBench
from owl_jax.evaluation.benchmarks.wemath import WeMath
from owl_jax.evaluation.scorers import mmmu, yes_no
from owl_jax.evaluation.scorers.choice import REFUSED, least, vlmevalkit
from owl_jax.evaluation.scoring import baselines

COLORS = {"A": "red", "B": "blue", "C": "black", "D": "white"}


def given(benchmark, items, answers, ask=None):
    """The items with these answers, and our verdicts."""
    answers = dict(zip((item.id for item in items), answers, strict=True))
    verdicts = benchmark.judge(items, answers, ask)
    return [
        Judged(item, answers[item.id], verdict)
        for item, verdict in zip(items, verdicts, strict=True)
    ]


@pytest.mark.parametrize(
    ("answer", "letter"),
    [
        ("B", "B"),
        ("**B**", "B"),
        ("A cube is visible", "A"),  # the article, within the last four words
        ("A red cube is on the mat now", "A"),  # by its text: the letter is too far
        ("I choose A or B", None),
        ("The answer is a red cube.", "A"),
        ("the ANSWER IS black", "B"),  # "b", before the text of a choice
        ("It is white", "D"),
        ("It is white, " + "as I can see " * 3, None),  # too long for a text
        ("b", None),
        ("Z", REFUSED),
        ("Cannot determine the answer", REFUSED),
        ("I'm sorry, but I cannot see the picture.", None),
        ("", None),
    ],
)
def test_vlmevalkit_s_rules(answer, letter):
    assert vlmevalkit(answer, COLORS) == letter


@pytest.mark.parametrize(
    ("answer", "word", "start"),
    [
        ("Yes.", "Yes", "Yes"),
        ("Not sure.", None, "No"),
        ("Nothing like that", None, "No"),
        ("I know that it is: yes", "Yes", None),  # "no" is past four characters
        ("The answer is no", "No", None),
        ("   no", "No", None),
        ("yes and no", None, "Yes"),
        ("n", None, None),
    ],
)
def test_yes_and_no(answer, word, start):
    """MME reads four characters, VLMEvalKit whole words."""
    assert yes_no.whole_word(answer) == word
    assert mme.first_characters(answer) == start


def test_lmms_eval_reads_more_of_mme():
    assert mme.lmms_eval("n") == "No"
    assert mme.lmms_eval("   no") == "No"
    assert mme.lmms_eval(".Yes") == "Yes"


def test_accuracy_plus_needs_both_questions_of_a_picture():
    items = Mme().read(SCORES / "mme")
    pair = [item for item in items if item.group == "count/0001"]
    half = given(Mme(), pair, [pair[0].truth, "hm"])
    assert Mme().headline_value(half) == 50
    both = given(Mme(), pair, [item.truth for item in pair])
    assert Mme().headline_value(both) == 200


def test_lmms_eval_gives_sentences_nothing_on_pope():
    items = Pope().read(SCORES / "pope")
    sentences = [
        "Yes, it is there." if item.truth == "Yes" else "There is no such thing." for item in items
    ]
    judged = given(Pope(), items, sentences)
    assert Pope().headline_value(judged) == 1
    scores = Pope().variants(judged)["lmms_eval"]["all"]
    assert scores["accuracy"] == 0
    assert scores["yes_ratio"] == sum(item.truth == "Yes" for item in items) / len(items)


@pytest.mark.parametrize(
    ("answer", "official", "bare"),
    [
        ("(B)", "B", "B"),
        ("(A) no, (C) yes, (A) no", "A", "A"),  # the last
        ("A or C", "C", "C"),
        ("B) red", None, None),
        ("B.", "B", "B"),  # marks at the ends go
        ("USA very", None, "A"),
        ("Choose C. It fits", None, "C"),
        ("I think that it is clearly black today", "C", "C"),
        ("black", None, None),  # the text of an option needs more words
    ],
)
def test_letters_of_mmmu(answer, official, bare):
    """lmms-eval needs no space before a letter."""
    assert mmmu.choice(answer, COLORS, (" {} ",)) == official
    assert lmms_eval(answer, COLORS) == bare


@pytest.mark.parametrize(
    ("answer", "truths", "correct"),
    [
        ("So it is 1,606.004", ["1606"], True),
        ("about 12", ["1"], False),
        ("x = 3e3", ["3000"], True),
        ("It is grey-blue.", ["blue"], True),  # a part of the text is enough
        ("is it b or a", ["a"], True),
        ("banana", ["a"], False),  # one letter needs a space beside it
        ("The answer is 7\nThe answer is 8", ["7"], True),
        ("x = 5\nso it is 6", ["5"], False),  # "=" counts in the last line only
    ],
)
def test_open_answers_of_mmmu(answer, truths, correct):
    assert mmmu.open_correct(mmmu.open_answer(answer), truths) == correct


def multiple_choice(number, options, truth="A"):
    return Item(
        f"validation_Art_{number}",
        "?",
        choices=options,
        truth=truth,
        category="Art",
        group=str(number),
        fields={"options": list(options), "truths": [truth]},
    )


def test_mmmu_s_random_letters_are_python_s():
    """The official code draws with the seed 42; ours counts chance in the headline."""
    items = [multiple_choice(number, ("w", "x", "y", "z")) for number in range(20)]
    judged = given(Mmmu(), items, [""] * 20)
    letters = random.Random(42)
    expected = [letters.choice(["A", "B", "C", "D"]) for _ in items].count("A") / 20
    assert Mmmu().scores(judged)["overall"] == expected
    assert Mmmu().headline_value(judged) == 0.25
    assert all(one.verdict.parsed is None for one in judged)


@pytest.mark.parametrize(
    ("answer", "official", "other"),
    [
        ("I think so. Answer: B", "B", "B"),
        ("Answer: Between", "B", None),  # any place
        ("Answer: (A) or (B)", "B", "B"),  # two letters: MMMU's rules
        ("(A) first. Answer: D", "D", "A"),
        ("Answer: d", None, None),
    ],
)
def test_letters_of_mmmu_pro(answer, official, other):
    assert mmmu_pro.official(answer, COLORS) == official
    assert mmmu_pro.lmms_eval(answer, COLORS) == other


def test_the_pronoun_is_an_option_of_ten():
    ten = {letter: f"text {letter}" for letter in "ABCDEFGHIJ"}
    assert mmmu_pro.official("I think it is this one", ten) == "I"
    assert mmmu_pro.official("I think it is C today", ten) == "C"


def test_the_overall_number_of_mmmu_pro_leaves_four_options_out():
    settings = {"standard (10 options)": 1.0, "standard (4 options)": 0.0, "vision": 0.5}
    judged = [
        Judged(Item(name, "?", category=name), "", Verdict("A", score))
        for name, score in settings.items()
    ]
    assert MmmuPro().headline_value(judged) == 0.75
    assert MmmuPro().headline_value(judged[1:2]) == 0


@pytest.mark.parametrize(
    ("answer", "letter"),
    [
        ("a", "A"),
        ("(c", "C"),
        ("option d", "D"),
        ("The answer is a red cube", "A"),
        ("blue", "B"),
        ("**B**", None),
        ("The correct answer is (B).", None),
        ("", None),
        ("(", None),
    ],
)
def test_the_beginning_decides_on_mmstar(answer, letter):
    assert mmstar.beginning(answer) == letter


@pytest.mark.parametrize(
    ("answer", "llava", "other"),
    [
        ("B", "B", "B"),
        ("b", None, "B"),
        ("B. blue", "B", "B"),
        ("B.", None, "B"),  # no space after
        ("(B)", None, None),
        ("The answer is B.", "B", None),
        ("The answer is B", None, None),  # nothing after
        ("The answer is Blue.", "B", None),
        ("The answer is A. The answer is B.", None, None),
        ("", None, None),
    ],
)
def test_letters_of_scienceqa(answer, llava, other):
    assert scienceqa.llava(answer) == llava
    assert scienceqa.lmms_eval(answer) == other


@pytest.mark.parametrize(
    ("answer", "official", "mended", "bare"),
    [
        ("The best answer is C", "C", "C", "C"),
        ("Best option: (C)", "B", "C", "C"),  # the official list lacks commas
        ("Answer: C", "A", "A", "A"),
        ("b", "A", "A", "B"),  # in "(A) blue"; lmms-eval does not look into the choices
        ("", "A", "A", "A"),  # part of every choice
        ("i do not see it in this picture, so i cannot say", None, None, None),
    ],
)
def test_letters_of_mme_realworld(answer, official, mended, bare):
    choices = ("(A) blue", "(B) red", "(C) white", "(D) grey", "(E) None of them")
    assert mme_realworld.official(answer, choices) == official
    assert mme_realworld.vlmevalkit(answer, choices) == mended
    assert mme_realworld.lmms_eval(answer) == bare


def test_averages_of_mme_realworld():
    """Avg weighs subtasks by their items, Avg-C does not."""
    items = [
        item
        for item in MmeRealWorld().read(SCORES / "mme_realworld")
        if item.fields["task"] == "Perception"
    ]
    small = "OCR with Complex Context"
    judged = given(
        MmeRealWorld(),
        items,
        [item.truth if item.fields["subtask"] == small else "so" * 20 for item in items],
    )
    few = sum(item.fields["subtask"] == small for item in items)
    averages = MmeRealWorld().variants(judged)["paper"]["Perception"]
    assert averages == pytest.approx({"Avg": few / len(items), "Avg-C": 1 / 5})


@pytest.mark.parametrize(
    ("answer", "letter"),
    [
        ("<Thought process>: <<B is small.>> <Answer>: <<D>>", "D"),
        ("Answer: A. No, Answer: C", "C"),
        ("The answer is B.", None),  # T
        ("Answer: (B)", None),
        ("Answer: c", None),
        ("Both are", "B"),
        ("", None),
    ],
)
def test_letters_of_we_math(answer, letter):
    assert wemath.after_answer(answer) == letter


@pytest.mark.parametrize(
    ("right", "strict", "loose"),
    [
        ((True, True, True), 1.0, 1.0),  # mastered
        ((True, True, False), 0.5, 0.5),  # not generalised
        ((True, False, True), 0.0, 1.0),  # by rote if strict, mastered if loose
        ((False, False, True), 0.0, 0.0),  # by rote
        ((True, False, False), 0.0, 0.0),  # lacks knowledge
    ],
)
def test_a_problem_of_we_math(right, strict, loose):
    problem = [item for item in WeMath().read(SCORES / "wemath") if item.group == "2steps/2steps_1"]
    answers = [item.truth if correct else "-" for item, correct in zip(problem, right, strict=True)]
    judged = given(WeMath(), problem, answers)
    assert WeMath().headline_value(judged) == strict
    assert WeMath().variants(judged)["same_with_true_total"]["score_loose"] == loose


def test_ranking_takes_the_least_loss():
    """lmms-eval takes the least of what its guide calls a likelihood; a loss is what it means."""
    assert least([2.0, 0.5, 3.0]) == "B"
    assert least([1.0, 1.0]) == "A"


def test_toolkits_read_refusals_and_articles_as_letters_on_seed_bench():
    item = SeedBench().read(SCORES / "seedbench")[0]
    judged = given(SeedBench(), [item], [f"{item.truth}oth of them"])
    variants = SeedBench().variants(judged)
    assert variants["lmms_eval"]["seed_all"] == 1
    assert variants["llava_exact_text"]["Total"] == 0


def test_without_a_judge_hallusionbench_has_no_official_numbers():
    judged = judged_of(HallusionBench())
    scores = HallusionBench().scores(judged)
    assert list(scores) == ["yes_no_words"]
    assert "pair_stat" not in scores["yes_no_words"]
    assert any(one.verdict.parsed is None for one in judged)


def test_not_to_know_is_right_without_a_picture():
    items = HallusionBench().read(SCORES / "hallusionbench")
    for one in given(HallusionBench(), items, ["Who knows."] * len(items)):
        assert one.verdict.score == float(not one.item.media)


def test_constant_answers_of_hallusionbench_are_complementary():
    items = HallusionBench().read(SCORES / "hallusionbench")
    found = baselines(HallusionBench(), items)
    no = sum(item.truth == "No" for item in items) / len(items)
    assert found['always "No"'] == pytest.approx(100 * no)
    assert found['always "Yes"'] == pytest.approx(100 - 100 * no)


def test_a_failed_judge_leaves_the_whole_question_of_mmbench_open():
    def ask(calls):
        replies = replies_of("mmbench")(calls)
        return [
            None if call.id == "1007868" else reply
            for call, reply in zip(calls, replies, strict=True)
        ]

    judged = judged_of(MmBench(), ask=ask)
    failed = [one for one in judged if one.verdict.score is None]
    assert {one.item.group for one in failed} == {"7868"}
    assert len(failed) > 1
    kept = [one for one in judged if one.verdict.score is not None]
    hit = MmBench().scores(kept)["with_judge"]["hit"]
    assert "7868" not in hit
    assert len(hit) == 11


def test_a_judge_that_names_no_letter_three_times_is_no_luck():
    """VLMEvalKit takes a random letter then."""
    asked = []

    def ask(calls):
        asked.extend(calls)
        return ["I cannot say"] * len(calls)

    judged = judged_of(MmBench(), ask=ask)
    assert MmBench().headline_value(judged) == MmBench().headline_value(judged_of(MmBench()))
    tries = [call.attempt for call in asked if call.id == "11882"]
    assert tries == [0, 1, 2]


def test_a_failed_judge_leaves_an_answer_of_hallusionbench_open():
    def ask(calls):
        replies = replies_of("hallusionbench")(calls)
        return [
            None if call.id == "VD_illusion_0_0_0" and call.part == "same" else reply
            for call, reply in zip(calls, replies, strict=True)
        ]

    judged = judged_of(HallusionBench(), ask=ask)
    failed = [one for one in judged if one.verdict.score is None]
    assert [one.item.id for one in failed] == ["VD_illusion_0_0_0"]
    kept = [one for one in judged if one.verdict.score is not None]
    # The other figures of the question have lost their original.
    assert HallusionBench().scores(kept)["pair_stat"]["total_q"] == len(kept)


def test_a_sample_of_hallusionbench_is_compared_with_the_original_answers():
    """The judge's agreement is measured on a sample of the items."""
    asked = []

    def ask(calls):
        asked.extend(calls)
        return ["correct"] * len(calls)

    items = HallusionBench().read(SCORES / "hallusionbench")
    answers = {item.id: f"answer {item.id}" for item in items}
    [edited] = [item for item in items if item.id == "VD_illusion_0_1_1"]
    [verdict] = HallusionBench().judge([edited], answers, ask)
    assert verdict.score == 1
    same = next(call.prompt for call in asked if call.part == "same")
    assert "answer VD_illusion_0_1_1" in same
    assert "answer VD_illusion_0_0_1" in same


def test_options_rotate_in_mmbench():
    """One letter for all turns hits nothing."""
    items = MmBench().read(SCORES / "mmbench")
    found = baselines(MmBench(), items)
    assert all(value == 0 for name, value in found.items() if "always" in name)
