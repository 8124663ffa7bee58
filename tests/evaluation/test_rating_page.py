"""The page for grades, driven in a headless browser."""

import json
import shutil
from types import SimpleNamespace

import pytest
from PIL import Image
from playwright.sync_api import sync_playwright

from owl_jax.evaluation.benchmark import Item, Medium
from owl_jax.evaluation.rating.page import write_rating_page
from owl_jax.evaluation.rating.tally import read_ratings, tally, token_of

CHROMIUM = shutil.which("chromium-headless-shell") or shutil.which("chromium")
SYSTEMS = ("owl", "<script>alert(1)</script>")


@pytest.fixture(scope="module")
def rated(tmp_path_factory):
    """Two questions, two systems' answers, one without the second."""
    folder = tmp_path_factory.mktemp("rating")
    Image.new("RGB", (30, 20), "red").save(folder / "1.png")
    items = [
        Item(id, f"What is {id}?", (Medium("image", folder / "1.png"),), fields={"turns": turns})
        for id, turns in (("1", ["single_turn"]), ("2", ["multi_turn"]))
    ]
    answers = {SYSTEMS[0]: {"1": "A </script><b>red</b> square", "2": "Red"}, SYSTEMS[1]: {"1": ""}}
    write_rating_page(folder / "rating.html", items, answers, seed=7)
    return SimpleNamespace(folder=folder, items=items, answers=answers)


@pytest.fixture(scope="module")
def browser():
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu", "--disable-quic"]
        )
        yield browser
        browser.close()


@pytest.fixture
def page(browser, rated):
    """The page in a browser that has not seen it, and which must report no error."""
    context = browser.new_context(accept_downloads=True)
    page = context.new_page()
    errors, requests = [], []
    page.on("pageerror", lambda error: errors.append(error))
    page.on("request", lambda request: requests.append(request.url))
    page.goto((rated.folder / "rating.html").as_uri())
    yield page
    assert errors == []
    assert [url for url in requests if not url.startswith(("file:", "data:", "blob:"))] == []
    context.close()


def marked(page):
    return page.locator("li[aria-current=true] p").inner_text()


def test_the_file_does_not_name_the_systems(rated):
    text = (rated.folder / "rating.html").read_text()
    assert "owl" not in text.replace("overflow", "").replace("--rule", "").lower().split()
    assert "alert(1)" not in text
    assert text.count(token_of("owl", "1", 7)) == 1


def test_an_answer_with_half_a_surrogate_pair_is_shown(rated, tmp_path):
    path = tmp_path / "rating.html"
    write_rating_page(path, rated.items, {"owl": {"1": "red \ud83d"}}, seed=7)
    assert '"text": "red ?"' in path.read_text(encoding="utf-8")


def test_keys_grade_and_go_on(page):
    assert page.locator("#count").inner_text() == "0 of 3 graded"
    texts = page.locator("li p").all_inner_texts()
    assert sorted(texts) == ["(no answer)", "A </script><b>red</b> square"]
    assert marked(page) == texts[0]
    page.keyboard.press("a")
    assert marked(page) == texts[1]
    page.keyboard.press("ArrowUp")
    assert marked(page) == texts[0]
    assert page.locator("li button[aria-pressed=true]").all_inner_texts() == ["A"]
    page.keyboard.press("ArrowDown")
    page.keyboard.press("D")
    assert page.locator("#question").inner_text() == "What is 2?"
    assert page.locator("#place").inner_text() == "Question 2 of 2"
    page.get_by_label("grade B for answer 1").click()
    assert page.locator("#count").inner_text() == "3 of 3 graded"
    page.get_by_role("button", name="Next without a grade").click()
    assert page.get_by_role("alert").inner_text() == "All answers have a grade: export them."


def test_letters_in_the_name_are_no_grades(page):
    page.get_by_label("Your name").fill("")
    page.get_by_label("Your name").press_sequentially("Abba")
    assert page.locator("#count").inner_text() == "0 of 3 graded"


def test_grades_stay_in_the_browser_and_travel_as_a_file(browser, page, rated, tmp_path):
    page.keyboard.press("c")
    page.get_by_role("button", name="Export").click()
    assert "Write your name first" in page.get_by_role("alert").inner_text()
    page.get_by_label("Your name").fill("Ann B.")
    page.get_by_label("Your name").blur()
    page.reload()
    assert page.locator("#count").inner_text() == "1 of 3 graded"
    assert page.get_by_label("Your name").input_value() == "Ann B."
    with page.expect_download() as download:
        page.get_by_role("button", name="Export").click()
    assert download.value.suggested_filename == "ratings-Ann-B.json"
    download.value.save_as(tmp_path / "ann.json")

    ratings = read_ratings(tmp_path / "ann.json", rated.answers, 7)
    assert (ratings.rater, list(ratings.grades.values())) == ("Ann B.", ["C"])
    found = tally(rated.items, rated.answers, [ratings], 7)
    assert sum(system["ratings"] for system in found["systems"].values()) == 1

    other = browser.new_context().new_page()
    other.goto((rated.folder / "rating.html").as_uri())
    other.locator("#import").set_input_files(tmp_path / "ann.json")
    other.get_by_text("1 of 3 graded").wait_for()
    assert other.get_by_label("Your name").input_value() == "Ann B."
    (tmp_path / "bad.json").write_text(json.dumps({"rater": "x", "grades": {"unknown": "A"}}))
    other.locator("#import").set_input_files(tmp_path / "bad.json")
    other.get_by_text("bad.json has no grades of this page.").wait_for()
    assert other.locator("#count").inner_text() == "1 of 3 graded"
    other.context.close()


def test_a_narrow_screen_shows_one_column(page):
    page.set_viewport_size({"width": 380, "height": 700})
    width = page.evaluate("document.documentElement.scrollWidth")
    assert width <= 380
    question, answers = page.locator("#question").bounding_box(), page.locator("ol").bounding_box()
    assert answers["y"] > question["y"]
