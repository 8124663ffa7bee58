"""The command: from files to a page, and what it says where there is no page to be had."""

import json
from pathlib import Path

import forked
import pytest
from html_page import Page
from PIL import Image

DEMO = Path(__file__).parents[2] / "configs" / "demo"
CONFIG = f"""
from owl_jax.demo.model import DEMONSTRATION
from owl_jax.training.config import small_config

def get_config(file="people.jsonl"):
    config = small_config(DEMONSTRATION)
    config.tokenizer = {str(DEMO / "tokenizer")!r}
    config.batch_size = 3
    config.data.pack = True
    config.data.open_rows = 4
    config.data.sequence_length = 96
    config.data.image_slots = 2
    facts = {str(DEMO / "synthetic.py")!r} + ":text_facts"
    config.data.mixture = ((file, 3.0), (facts, 1.0)) if file != "none" else ()
    return config
"""
QUESTION = "Human: <image>\nHuman: What is it?\nAI: "


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Configs, twenty lines of people's data, two of them broken; and a file of broken ones."""
    folder = tmp_path_factory.mktemp("preview")
    (folder / "config.py").write_text(CONFIG)
    lines = []
    for number in range(20):
        if number % 2:
            lines.append({"text": f"Human: Say it.\nAI: <{number}> & more", "image": []})
        else:
            Image.new("RGB", (40, 30), (9 * number, 90, 0)).save(folder / f"{number}.png")
            lines.append({"text": f"{QUESTION}number {number}", "image": [f"{number}.png"]})
    (folder / "4.png").unlink()
    lines[7]["text"] = "Human: <image>\nAI: Seven."
    (folder / "people.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "broken.jsonl").write_text('{"text": "Human: \n' * 5)
    return folder


@pytest.fixture(scope="module")
def preview(folder):
    def call(*arguments):
        return forked.run("-m", "owl_jax.data.preview", *arguments, directory=folder)

    return call


@pytest.fixture(scope="module")
def shown(folder, preview):
    """A run of the command that went well, and its page."""
    result = preview(
        *("--config=config.py:people.jsonl", "--output=pages/out.html", "--workdir=work"),
        *("--batches=8", "--records=40", "--rows=2"),
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout == "preview: pages/out.html\n"
    return Page(folder / "pages" / "out.html")


def test_the_page_tells_of_the_mixture_and_its_records(shown):
    assert shown.within("h1") == ["The data of config.py:people.jsonl"]
    assert "people.jsonl (20 records) 75.0%" in shown.text
    assert "demo/synthetic.py:text_facts (100,000 records) 25.0%" in shown.text
    # One of the twenty has a mark without a picture; 30 of the 40 are from the file.
    assert "Length of the records: 3" in shown.drawings()[0]
    assert "96 tokens, 2 pictures" in shown.text


def test_the_page_has_the_batches(shown):
    assert [title for title in shown.within("h2") if "Batch" in title] == [
        f"Batch {number}" for number in range(1, 9)
    ]
    assert len([row for row in shown.within("summary") if "Sequence" in row]) == 8 * 2
    marks = shown.within("mark")
    assert any(text.endswith("> & more</s>") for text in marks)
    assert any(text.startswith("number ") for text in marks)
    assert shown.all("img") and shown.fetched() == []


def test_the_page_lists_what_was_dropped(shown, folder):
    items = shown.within("li")
    assert len(items) == 2
    assert sum("people.jsonl:5" in item and "4.png" in item for item in items) == 1
    assert sum("people.jsonl:8" in item and "media marks" in item for item in items) == 1
    assert shown.within("p", "alarm") == ["Above the limit: training would stop."]
    assert "data.max_dropped allows 1.0%" in shown.text
    # The workdir may be a training run's: its list is not touched.
    assert [path.name for path in (folder / "work").iterdir()] == ["index"]


def test_data_of_which_nothing_can_be_used(preview, folder):
    result = preview(
        *("--config=config.py", "--config.data.mixture=(('broken.jsonl',1),)"),
        *("--output=broken.html", "--records=5"),
    )
    assert result.returncode == 1
    assert result.stderr.splitlines()[-1].startswith("error: 100 of 100 records were dropped")
    page = Page(folder / "broken.html")
    assert len(page.within("li")) == 5
    assert "No values." in page.text and page.all("img") == []


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["--config=missing.py"], 1, ["missing.py", "does not exist"]),
        (["--config=config.py:none"], 1, ["no data", "config.data.mixture"]),
        (["--config=config.py:nothing.jsonl"], 1, ["nothing.jsonl"]),
        (["--config=config.py", "--config.tokenizer="], 1, ["--config.tokenizer=DIR"]),
        (
            ["--config=config.py", "--config.data.sequence_length=0"],
            1,
            ["config.data.sequence_length=0"],
        ),
        (["--config=config.py", "--output=."], 1, ["--output=.", "directory"]),
        (["--config=config.py", "--batches=0"], 2, ["batches"]),
        ([], 2, ["--config"]),
    ],
)
def test_mistakes_are_told_in_one_line(preview, arguments, status, words):
    result = preview("--records=1", *arguments)
    assert result.returncode == status, result.stderr
    told = [line for line in result.stderr.splitlines() if "dropped (" not in line]
    assert len(told) == 1 and told[0].startswith("error: "), result.stderr
    assert all(word in told[0] for word in words), told[0]
    assert result.stdout == ""
