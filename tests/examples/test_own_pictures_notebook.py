"""examples/own_pictures.ipynb from the top, with a tiny model; and the forms of data it reads."""

import csv
import dataclasses
import json
import socket

import pytest
import tiny
from nbclient import NotebookClient
from notebook_cells import EXAMPLES, parameters, read
from PIL import Image
from quick_compile import on_devices

from owl_jax.models.lora import LoraConfig

STEPS = 30


@pytest.mark.processes
def test_from_pictures_to_a_page(tmp_path, monkeypatch):
    """The stand-in's data, few steps and questions, and a model that learns nothing in them."""
    monkeypatch.setenv("XLA_FLAGS", on_devices(1))
    model = dataclasses.replace(
        tiny.CONFIG,
        llm=dataclasses.replace(tiny.CONFIG.llm, vocab_size=768),
        lora=LoraConfig(rank=4, alpha=8.0, targets=("q_proj", "v_proj")),
    )
    tokenizer = EXAMPLES.parent / "configs/demo/tokenizer"
    tiny.write_model(tmp_path / "model", model, tokenizer)
    notebook = read("own_pictures")
    changed = {"MODEL": str(tmp_path / "model"), "FOLDER": str(tmp_path / "own"), "STEPS": STEPS}
    changed |= {"QUESTIONS": 8, "PORT": free_port()}
    cell = parameters(notebook)
    cell.source += "".join(f"\n{name} = {value!r}" for name, value in changed.items())
    where = {"metadata": {"path": EXAMPLES}}
    NotebookClient(notebook, timeout=300, kernel_name="python3", resources=where).execute()

    assert talks(tmp_path / "own/train.jsonl")[0]["texts"][0]["user"].endswith("?")
    logged = (tmp_path / "own/training/metrics.jsonl").read_text().splitlines()
    assert json.loads(logged[-1])["step"] == STEPS
    results = json.loads((tmp_path / "own/evaluation/results.json").read_text())
    asked = table(tmp_path / "own/test.csv")
    assert results["items"] == len(asked) == 8
    # The server answers as the evaluation does.
    lines = (tmp_path / "own/evaluation/answers.jsonl").read_text().splitlines()
    answers = {line["id"]: line["answer"] for line in map(json.loads, lines)}
    assert f"{asked[0]['question']} {answers['2']}" in printed(notebook)


def printed(notebook):
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    return "".join(output.get("text", "") for output in outputs)


def table(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def talks(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@pytest.fixture
def read_data(tmp_path):
    """Runs the cells that read the data with some settings.

    Returns the conversations to train on, and the questions to measure with.
    """

    def run(**settings):
        (tmp_path / "own").mkdir()
        names = {"csv": csv, "json": json, "Path": type(tmp_path), "QUESTIONS": 100}
        names["FOLDER"] = tmp_path / "own"
        for cell in read("own_pictures").cells:
            if "data" in cell.metadata.get("tags", []):
                exec(cell.source, names | {"TEST": ""} | settings)
        return talks(tmp_path / "own/train.jsonl"), table(tmp_path / "own/test.csv")

    return run


def test_a_folder_of_pictures_with_captions(read_data, tmp_path):
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for number in range(12):
        Image.new("RGB", (8, 8)).save(pictures / f"owl {number:02}.png")
        (pictures / f"owl {number:02}.txt").write_text(f'Owl {number}, "asleep".\n')
    Image.new("RGB", (8, 8)).save(pictures / "without a caption.png")
    train, test = read_data(TRAIN=str(pictures))
    assert [row["answer"] for row in test] == ['Owl 0, "asleep".', 'Owl 10, "asleep".']
    assert len(train) == 10
    assert train[0] == {
        "image": str(pictures / "owl 01.png"),
        "texts": [{"user": "Describe the image.", "assistant": 'Owl 1, "asleep".'}],
    }


def test_a_table_of_questions(read_data, tmp_path):
    rows = [f"a/{n // 2}.png,What is {n}?,It is {n}." for n in range(40)]
    (tmp_path / "mine.csv").write_text("\n".join(["image,question,answer", *rows]))
    train, test = read_data(TRAIN=str(tmp_path / "mine.csv"))
    # All questions about a picture are on one side.
    assert not {talk["image"] for talk in train} & {row["image"] for row in test}
    assert (len(train), len(test)) == (18, 4)
    assert train[0]["texts"] == [
        {"user": f"What is {n}?", "assistant": f"It is {n}."} for n in (2, 3)
    ]
    assert test[0]["image"] == str(tmp_path / "a/0.png")
    assert test[1]["answer"] == "It is 1."


def test_two_tables(read_data, tmp_path):
    for name in ("one", "two"):
        (tmp_path / f"{name}.csv").write_text(f"image,question,answer\n{name}.png,Which?,{name}\n")
    paths = {"TRAIN": str(tmp_path / "one.csv"), "TEST": str(tmp_path / "two.csv")}
    train, test = read_data(**paths)
    assert [talk["texts"][0]["assistant"] for talk in train] == ["one"]
    assert [row["answer"] for row in test] == ["two"]


def test_many_questions_about_a_picture_are_several_conversations(read_data, tmp_path):
    rows = [f"{n % 2}.png,What is {n}?,It is {n}." for n in range(30)]
    (tmp_path / "mine.csv").write_text("\n".join(["image,question,answer", *rows]))
    train, _ = read_data(TRAIN=str(tmp_path / "mine.csv"), TEST=str(tmp_path / "mine.csv"))
    assert [(talk["image"][-5:], len(talk["texts"])) for talk in train] == [
        ("0.png", 8), ("0.png", 7), ("1.png", 8), ("1.png", 7)
    ]  # fmt: skip
