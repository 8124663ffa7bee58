"""Photographs and talks of several turns, in the original's files, from lines to a resumed run.

The directory has OwlEval's form; its pictures and words are made here. With OwlEval itself:
tests/data/owleval_lines.py, then the same two commands.
"""

import importlib.util
import json
import runpy
from pathlib import Path

import forked
import numpy as np
import pytest
import tiny
from PIL import Image

from owl_jax.training.loop import train

ROOT = Path(__file__).parents[2]
CONFIG = """
from pathlib import Path
from owl_jax.checkpoint.model_directory import read_config
from owl_jax.training.config import small_config


def get_config():
    config = small_config(read_config(Path("{files}/base")))
    config.steps = 6
    config.batch_size = 4
    config.init.vision = config.init.connector = config.init.llm = "{files}/base"
    config.rules = (("connector/.*", "connector"), (".*", "frozen"))
    config.recipes.connector = {{"learning_rate": 1e-3, "schedule": "constant"}}
    config.mesh.data, config.mesh.fsdp = 4, 1
    config.mesh.tensor = -1
    config.data.sequence_length = 512
    config.data.image_slots = 4
    config.data.pack = True
    config.data.open_rows = 4
    config.data.augmentation = "caption"
    config.data.mixture = (("{files}/talks.jsonl", "1 epoch"),)
    config.data.media_root = "{files}/owls/cases"
    config.log_every = 1
    config.checkpoint_every = 3
    config.export = "none"
    return config
"""


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Twenty-four questions about sixteen photographs, every second one with a second question."""
    directory = tmp_path_factory.mktemp("owleval")
    owls = directory / "owls"
    (owls / "cases").mkdir(parents=True)
    (owls / "answer").mkdir()
    random = np.random.default_rng(0)
    questions = []
    for number in range(1, 17):
        coarse = Image.fromarray(random.integers(0, 256, (9, 12, 3), np.uint8))
        coarse.resize((320, 240), Image.Resampling.BICUBIC).save(owls / f"cases/{number}.jpg")
        for turn in range(1 + number % 2):
            questions.append(
                {
                    "image": f"{number}.jpg",
                    "question_id": len(questions),
                    "question": f"What is in part {turn} of picture {number}?",
                }
            )
    answers = [
        {**item, "answer": f"{'Much is seen there. ' * (item['question_id'] % 4)}An owl."}
        for item in questions
    ]
    for path, items in ("questions", questions), ("answer/mPLUG_Owl_7b_answer", answers):
        (owls / f"{path}.jsonl").write_text("\n".join(map(json.dumps, items)))
    path = ROOT / "tests/data/owleval_lines.py"
    spec = importlib.util.spec_from_file_location("owleval_lines", path)
    owleval_lines = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(owleval_lines)
    assert owleval_lines.write_lines(owls, directory / "talks.jsonl") == 16
    tiny.write_model(directory / "base")
    (directory / "config.py").write_text(CONFIG.format(files=directory))
    return directory


@pytest.fixture
def config(files):
    return runpy.run_path(str(files / "config.py"))["get_config"]()


def metrics_of(workdir):
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    kept = ("step", "loss", "grad_norm", "supervised_tokens", "dropped")
    return [{name: line[name] for name in kept} for line in lines], lines


def test_training_packs_and_goes_on_bit_equal(files, config, tmp_path):
    train(config, tmp_path / "whole")
    whole, lines = metrics_of(tmp_path / "whole")
    assert len(whole) == 6 and all(np.isfinite(line["loss"]) for line in whole)
    assert whole[-1]["dropped"] == 0
    assert np.mean([line["row_fill"] for line in lines]) > 0.6  # alone, a talk fills 0.3

    config.steps = 3
    train(config, tmp_path / "stopped")
    config.steps, config.data.workers = 6, 1
    train(config, tmp_path / "stopped")
    assert metrics_of(tmp_path / "stopped")[0] == whole


def test_the_preview_shows_them(files, tmp_path):
    command = [
        "-m", "owl_jax.data.preview", f"--config={files}/config.py",
        f"--output={tmp_path}/preview.html", "--batches=1",
    ]  # fmt: skip
    result = forked.run(*command, directory=ROOT)
    assert result.returncode == 0, result.stderr
    page = (tmp_path / "preview.html").read_text()
    assert "An owl." in page and "data:image/" in page and "talks.jsonl" in page
