"""The demonstration's report: whole, self-contained, and it says what was given."""

import base64
import dataclasses
import io
import json
import re

import numpy as np
import pytest
from html_page import Page
from PIL import Image

from owl_jax.demo.evaluation import AnsweredQuestion
from owl_jax.demo.probes import probes
from owl_jax.demo.questions import questions
from owl_jax.demo.report import write_report
from owl_jax.text.turns import SYSTEM

REPORT = {
    "image_accuracy": 0.913,
    "shuffled_accuracy": 0.402,
    "blind_accuracy": 0.421,
    "video_accuracy": 0.84,
    "multi_image_accuracy": 0.715,
    "text_accuracy_before": 0.805,
    "text_accuracy_after": 0.812,
    "reworded_accuracy": 0.107,
    "follow_up_accuracy": 0.216,
    "two_turns_accuracy": 0.325,
    "three_images_accuracy": 0.434,
    "questions": 1875,
    "by_ability": {"image: count": 0.881, "image: <shape>": 1.0, "multi_image: two_images": 0.715},
    "seconds": {"stage0": 59.6, "stage1": 121.0, "evaluation": 4.2},
    "model": "runs/a & b/model",
}


def write_metrics(workdir, rows):
    workdir.mkdir(parents=True)
    (workdir / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return workdir


def loss_rows(losses):
    return [{"step": 10 * i, "loss": loss} for i, loss in enumerate(losses, start=1)]


@pytest.fixture
def stages(tmp_path):
    return [
        write_metrics(tmp_path / "stage0", loss_rows([4.0, 2.0, 1.0])),
        write_metrics(tmp_path / "stage1", loss_rows([3.0, None, 0.5, None, 0.25])),
    ]


def ask(kind, count=1):
    return questions("heldout", 5, count, [kind], image_size=24)


def pictures(page):
    files = [image["src"].removeprefix("data:image/png;base64,") for image in page.all("img")]
    return [Image.open(io.BytesIO(base64.b64decode(file, validate=True))) for file in files]


def test_accuracies_abilities_and_times(tmp_path, stages):
    write_report(tmp_path / "report.html", REPORT, [], stages)
    text = Page(tmp_path / "report.html").text
    for label, share in (
        ("Questions about one picture", "91.3%"),
        ("the same, pictures shuffled", "40.2%"),
        ("the best guess without looking", "42.1%"),
        ("Questions about two pictures", "71.5%"),
        ("Questions about a video", "84.0%"),
        ("Text only, before stage 2", "80.5%"),
        ("Text only, after stage 2", "81.2%"),
        ("In other words", "10.7%"),
        ('About "it", after a question', "21.6%"),
        ("About two pictures, one at a time", "32.5%"),
        ("About three pictures", "43.4%"),
        ("One picture count", "88.1%"),
        ("<shape>", "100.0%"),
        ("Two pictures two images", "71.5%"),
    ):
        assert f"{label} {share}" in text
    assert "1,875 held-out questions" in text
    assert "stage0 1 min 00 s stage1 2 min 01 s evaluation 4 s total 3 min 05 s" in text
    assert "--model=runs/a & b/model" in text


def test_bars_are_as_long_as_their_shares(tmp_path):
    write_report(tmp_path / "report.html", REPORT, [], [])
    styles = [tag.get("style", "") for tag in Page(tmp_path / "report.html").all("div")]
    widths = [style for style in styles if style.startswith("width:")]
    assert widths[:3] == ["width:91.3%", "width:40.2%", "width:42.1%"]
    assert widths[7:11] == ["width:10.7%", "width:21.6%", "width:32.5%", "width:43.4%"]
    assert len(widths) == 7 + 4 + 3


def test_nothing_is_fetched(tmp_path, stages):
    examples = [AnsweredQuestion(question, "red") for question in ask("vqa", 2)]
    write_report(tmp_path / "report.html", REPORT, examples, stages)
    assert Page(tmp_path / "report.html").fetched() == []
    assert "http" not in (tmp_path / "report.html").read_text("utf-8")


def test_losses_of_the_stages_without_nulls(tmp_path, stages):
    write_report(tmp_path / "report.html", REPORT, [], stages)
    page = Page(tmp_path / "report.html")
    assert page.drawings() == [
        "Loss in stage0: loss from 4 at step 10 to 1 at step 30",
        "Loss in stage1: loss from 3 at step 10 to 0.25 at step 50",
    ]
    # Three points each, in the thin line and in the bold one.
    lines = [d for path in page.all("path") if (d := path.get("d", "")).count("L") == 2]
    assert len(lines) == 2 * 2


def test_a_stage_without_metrics_is_said_to_have_none(tmp_path):
    write_report(tmp_path / "report.html", REPORT, [], [tmp_path / "stage9"])
    assert "Loss in stage9 No values." in Page(tmp_path / "report.html").text


def test_pictures_pairs_and_frames_are_shown_in_order(tmp_path):
    (single,), (pair,), (video,) = ask("vqa"), ask("two_images"), ask("video")
    examples = [AnsweredQuestion(question, "") for question in (video, single, pair)]
    write_report(tmp_path / "report.html", REPORT, examples, [])
    page = Page(tmp_path / "report.html")
    expected = [*single.images, *pair.images, *video.videos[0]]
    shown = pictures(page)
    assert len(shown) == len(expected) == 1 + 2 + 4
    for got, wanted in zip(shown, expected, strict=True):
        np.testing.assert_array_equal(np.asarray(got), np.asarray(wanted))
    names = [image["alt"] for image in page.all("img")]
    assert names[:3] == ["picture 1 of 1", "picture 1 of 2", "picture 2 of 2"]
    assert names[3:] == [f"frame {i} of 4" for i in (1, 2, 3, 4)]


def test_right_and_wrong_are_said_in_words(tmp_path):
    first, second, third = ask("vqa", 3)
    examples = [
        AnsweredQuestion(first, f" The {first.answer.upper()}. "),
        AnsweredQuestion(second, "seventeen"),
        AnsweredQuestion(third, ""),
    ]
    write_report(tmp_path / "report.html", REPORT, examples, [])
    text = Page(tmp_path / "report.html").text
    assert text.count("✓ right") == 1 and text.count("✗ wrong") == 2
    assert f"{first.question} Answer: The {first.answer.upper()}. ✓ right" in text
    assert f"{second.question} Answer: seventeen ✗ wrong True answer: {second.answer}" in text
    assert f"{third.question} Answer: (nothing) ✗ wrong" in text


def test_what_the_words_told_before_the_question_is_shown(tmp_path):
    (scene,), (problem,) = ask("text_scene"), ask("text_math")
    write_report(
        tmp_path / "report.html",
        REPORT,
        [AnsweredQuestion(scene, "x"), AnsweredQuestion(problem, "7")],
        [],
    )
    text = Page(tmp_path / "report.html").text
    told = re.search("Human: (The image shows .*)", scene.prompt_text)[1]
    assert f"Text only {told} {scene.question} Answer: x" in text
    assert f"{problem.question} Answer: 7" in text
    assert "Human:" not in text and "<image>" not in text


def test_probes_are_groups_of_their_own_with_what_was_said_before(tmp_path):
    asked = {kind: question for kind, (question,) in probes(5, 1, image_size=24).items()}
    examples = [AnsweredQuestion(question, "x") for question in asked.values()]
    write_report(tmp_path / "report.html", REPORT, examples, [])
    page = Page(tmp_path / "report.html")
    titles = page.within("h3")[-4:]
    assert titles == [
        "In other words",
        'About "it", after a question',
        "About two pictures, one at a time",
        "About three pictures",
    ]
    for title, (kind, question) in zip(titles, asked.items(), strict=True):
        said = ""
        if kind in ("follow_up", "two_turns"):
            first = re.search("Human: ([^<\n]+)\nAI: (.+)", question.prompt_text)
            said = f"{first[1]} {first[2]} "
        assert f"{title} {said}{question.question} Answer: x ✗ wrong" in page.text
    assert len(page.all("img")) == 1 + 1 + 2 + 3
    assert "Outside the training" in page.within("h2")


def test_all_text_is_escaped(tmp_path):
    (question,) = ask("vqa")
    bad = '<script>alert("&amp;")</script>'
    nasty = dataclasses.replace(
        question,
        question=bad,
        answer=bad,
        prompt_text=f"{SYSTEM}\nHuman: {bad}\nHuman: {bad}\nAI: ",
    )
    report = REPORT | {"model": bad, "seconds": {bad: 1.0}, "by_ability": {f"text: {bad}": 0.5}}
    write_report(
        tmp_path / "report.html", report, [AnsweredQuestion(nasty, bad)], [tmp_path / "<b>"]
    )
    page = Page(tmp_path / "report.html")
    assert page.text.count(bad) == 1 + 1 + 1 + 4  # model, time, ability, and the example
    assert page.all("script") == page.all("b")[2:] == []
