"""The code of docs/training.md on evaluators, hooks and objectives, in one run."""

import json
import re
import runpy
import textwrap
from pathlib import Path

import tiny
from PIL import Image
from training_runs import CONFIG, metrics_of

from owl_jax.training.loop import train

PAGE = Path(__file__).parents[2] / "docs" / "training.md"


def blocks_of(section):
    """The indented blocks of code of a section."""
    text = PAGE.read_text().split(f"\n## {section}\n")[1].split("\n## ")[0]
    blocks = re.findall(r"(?:^ {4}.*\n|^\n(?= {4}))+", text, re.MULTILINE)
    return [textwrap.dedent(block) for block in blocks]


def test_what_the_page_shows_trains(tmp_path, monkeypatch, capsys):
    base = tiny.write_model(tmp_path / "base")
    (tmp_path / "config.py").write_text(CONFIG.format(base=base).lstrip())
    config = runpy.run_path(str(tmp_path / "config.py"))["get_config"]()
    config.steps, config.export = 3, "none"
    (tmp_path / "data").mkdir()
    said = ["Human: Say it.\nAI: " + f"{number} is a number. " * 9 for number in range(300)]
    records = "\n".join(json.dumps({"text": text}) for text in said)
    (tmp_path / "data" / "coco_val.jsonl").write_text(records)
    pope = tmp_path / "data" / "pope"
    (pope / "images").mkdir(parents=True)
    Image.new("RGB", (28, 28), (90, 40, 10)).save(pope / "images" / "0.png")
    asked = {"question_id": 1, "image": "0.png", "text": "Is there an owl?", "label": "yes"}
    (pope / "coco_pope_random.json").write_text(json.dumps(asked))
    monkeypatch.chdir(tmp_path)

    scope, evaluators = {"config": config}, []
    for section in ("Evaluators", "Hooks", "Objectives"):
        for block in blocks_of(section):
            exec(compile(block, section, "exec"), scope)
            evaluators += config.evaluators
            config.evaluators = ()
    config.evaluators = evaluators
    train(config, tmp_path / "run")

    assert len(evaluators) == 3
    last = metrics_of(tmp_path / "run")[-1]
    assert last["coco/loss"] > 0 and last["coco/supervised_tokens"] > 256
    assert last["parameters/norm"] > 0
    assert last["pope/score"] in (0, 1) and (tmp_path / "run" / "best").exists()
    assert 0 <= last["accuracy"] <= 1
    assert "step 3\n" in capsys.readouterr().out
