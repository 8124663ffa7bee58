"""The ablation's arms, intervals, tables and page; its training runs are the demonstration's."""

import itertools
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from html_page import Page

from owl_jax.demo.ablation import ARMS, NO_STAGE_2, RECIPE, keep_kinds
from owl_jax.demo.ablation_report import (
    COLUMNS,
    Answered,
    figure,
    format_tables,
    summarize,
    write_report,
)
from owl_jax.demo.evaluation import held_out_questions
from owl_jax.demo.knowledge import FACTS
from owl_jax.demo.questions import questions
from owl_jax.demo.stages import load_config
from owl_jax.demo.synthetic import SyntheticSource
from owl_jax.errors import UserError

STAGE_2 = Path(__file__).parents[2] / "configs" / "demo" / "stage2.py"
GROUPS = {column: [str(number) for number in range(20)] for column in COLUMNS}


def rights(*shares):
    """For each run, 20 questions of which the first ones are answered right."""
    return [[number < 20 * share for number in range(20)] for share in shares]


def results(recipe=(0.8, 0.9, 1.0), others=(0.5, 0.6, 0.7)):
    return {
        arm: {column: rights(*(recipe if arm == RECIPE else others)) for column in COLUMNS}
        for arm in ARMS
    }


def report_of(found):
    settings = {"seeds": len(found[RECIPE]["video"]), "scale": 0.5, "questions": 20}
    return settings | summarize(found, GROUPS, RECIPE, NO_STAGE_2)


@pytest.fixture(scope="module")
def report():
    return report_of(results())


@pytest.mark.parametrize(
    ("arm", "kinds"),
    [
        (RECIPE, {"vqa", "two_images", "video", "text_scene", "text_facts"}),
        ("no stage 1", {"vqa", "two_images", "video", "text_scene", "text_facts"}),
        ("multimodal data only", {"vqa", "two_images", "video"}),
        ("text-only data only", {"text_scene", "text_facts"}),
        ("single pictures and text", {"vqa", "text_scene", "text_facts"}),
        ("no stage 1, no text", {"vqa", "two_images", "video"}),
    ],
)
def test_an_arm_keeps_its_kinds_with_their_weights(arm, kinds):
    config = load_config(STAGE_2)
    ((before, _),) = config.data.mixture
    keep_kinds(config, ARMS[arm].kinds)
    ((after, weight),) = config.data.mixture
    assert set(after.kinds) == kinds and weight == 1.0
    assert after == replace(before, kinds={kind: before.kinds[kind] for kind in after.kinds})


def test_each_arm_leaves_out_something_else():
    arms = list(ARMS.values())
    assert len(set(arms)) == len(arms)
    assert arms[0].stage1 and arms[0].kinds == ".*"
    assert [name for name, arm in ARMS.items() if arm.kinds is None] == [NO_STAGE_2]


@pytest.mark.parametrize(
    ("mixture", "message"),
    [
        ([(SyntheticSource({"vqa": 1.0}), 1.0)] * 2, "2 sources in data.mixture; .* expects one"),
        ([("data.jsonl", 1.0)], "1 sources in data.mixture; .* a SyntheticSource"),
        ([(SyntheticSource({"vqa": 1.0}), 1.0)], "the kinds vqa; .* text-only kinds"),
        ([(SyntheticSource({"text_facts": 1.0}), 1.0)], "the kinds text_facts; .* single pictures"),
    ],
)
def test_stage_2_has_what_the_arms_leave_out(mixture, message):
    config = load_config(STAGE_2)
    config.data.mixture = tuple(mixture)
    with pytest.raises(UserError, match=message):
        keep_kinds(config, ARMS["multimodal data only"].kinds)


def test_questions_that_repeat_are_one_group():
    asked = held_out_questions(4)
    asked["text"] = questions("heldout", 1, 400, ["text_facts"])  # more than there are
    asked["image"] += asked["image"]  # the same words, though never the same scene
    groups = Answered(asked).groups
    assert {column: len(names) for column, names in groups.items()} == {
        "picture": 8,
        "two pictures": 1,
        "video": 1,
        "text alone": 400,
    }
    assert len(set(groups["picture"])) == 8
    assert len(set(groups["text alone"])) == len(FACTS["heldout"]) < 400


def test_mean_and_sample_deviation_over_the_seeds(report):
    assert list(report["arms"]) == list(ARMS)
    for columns in report["arms"].values():
        assert list(columns) == list(COLUMNS)
    recipe = report["arms"][RECIPE]["picture"]
    assert recipe["mean"] == pytest.approx(0.9) and recipe["stdev"] == pytest.approx(0.1)
    assert 0.65 < recipe["interval"][0] < 0.8 and recipe["interval"][1] == 1.0
    assert report["asked"] == dict.fromkeys(COLUMNS, 20)
    assert json.loads(json.dumps(report)) == report


def test_an_arm_is_compared_with_the_recipe_question_by_question(report):
    """Each run is right at 6 fewer of the 20 questions, always of the last ones."""
    assert "difference" not in report["arms"][RECIPE]["picture"]
    for arm in list(ARMS)[1:]:
        difference = report["arms"][arm]["picture"]["difference"]
        assert difference["value"] == pytest.approx(-0.3)
        low, high = difference["interval"]
        assert -0.6 < low < -0.4 and -0.2 < high < -0.05


def test_equal_answers_have_no_difference():
    found = summarize(results(others=(0.8, 0.9, 1.0)), GROUPS, RECIPE, NO_STAGE_2)
    difference = found["arms"]["no stage 1"]["video"]["difference"]
    assert difference == {"value": 0.0, "interval": [0.0, 0.0]}


def test_text_alone_before_and_after_stage_2(report):
    changes = report["text_change"]
    assert list(changes) == [arm for arm in ARMS if arm != NO_STAGE_2]
    recipe = changes[RECIPE]
    assert (recipe["before"], recipe["after"]) == (pytest.approx(0.6), pytest.approx(0.9))
    assert recipe["difference"]["value"] == pytest.approx(0.3)
    assert recipe["difference"]["interval"][0] > 0
    assert changes["no stage 1"]["difference"] == {"value": 0.0, "interval": [0.0, 0.0]}


def test_one_seed_has_no_spread_but_an_interval_of_its_questions():
    report = report_of(results(recipe=(0.5,), others=(0.5,)))
    found = report["arms"][RECIPE]["picture"]
    assert (found["mean"], found["stdev"]) == (0.5, 0.0)
    assert 0.2 < found["interval"][0] < 0.4 < 0.6 < found["interval"][1] < 0.8
    assert format_tables(report).endswith("mean [95 % interval] over questions; one seed")


def test_the_tables_have_a_row_for_each_arm(report):
    blocks = [block.splitlines() for block in format_tables(report).split("\n\n")]
    accuracies, differences, changes, [last] = blocks
    assert accuracies[0].split("  ")[0] == "held-out accuracy, %"
    for lines, arms in (
        (accuracies, list(ARMS)),
        (differences, list(ARMS)[1:]),
        (changes, list(report["text_change"])),
    ):
        assert [line[:26].strip() for line in lines[2:]] == arms
        assert len({len(line) for line in lines[1:]}) == 1
    assert accuracies[2].count("90.0 [") == 4 and accuracies[3].count("60.0 [") == 4
    assert differences[2].count("-30.0 [") == 4
    assert changes[2].split()[2:5] == ["60.0", "90.0", "+30.0"]
    assert last == "mean [95 % interval] over 3 seeds and questions"


def test_the_figure_says_every_number(report):
    chart = figure(report)
    assert chart.words.startswith("Held-out questions answered right, with 95 % intervals: the rec")
    assert chart.words.count("picture 60, ") == len(ARMS) - 1
    for arm, column in itertools.product(ARMS, COLUMNS):
        assert f"<title>{arm}: {column} " in chart.svg


def test_the_page_shows_figure_tables_and_losses(tmp_path, report):
    runs = {}
    for seed, loss in ((1, 2.0), (2, 3.0)):
        run = tmp_path / f"seed{seed}"
        run.mkdir()
        rows = ({"step": step, "loss": loss / step} for step in (1, 2))
        (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        runs[f"seed {seed}"] = run
    write_report(tmp_path / "report.html", report, {"stage 1": runs, "the recipe": {}})
    page = Page(tmp_path / "report.html")
    accuracies, losses = page.drawings()
    assert accuracies == figure(report).words
    assert losses == (
        "stage 1: seed 1 from 2 at step 1 to 1 at step 2; seed 2 from 3 at step 1 to 1.5 at step 2"
    )
    assert "the recipe No values." in page.text
    assert "from 3 seeds and with 50 % of the steps" in page.text
    low, high = (100 * np.array(report["arms"]["no stage 1"]["video"]["interval"])).tolist()
    assert f"60.0 {low:.1f} to {high:.1f}" in page.text
    assert len(page.all("table")) == 3 and page.fetched() == []
    # All differences to the recipe are significant; of the changes, the recipe's is.
    assert len(page.all("b")) == 4 * (len(ARMS) - 1) + 1
