"""The card of a model, and what a workdir tells about its run."""

import json

import pytest
from huggingface_hub import ModelCard

from owl_jax.errors import UserError
from owl_jax.hub.card import Described, model_card
from owl_jax.hub.training_run import read_run

COMMIT = "0123456789abcdef0123456789abcdef01234567"
CONFIG = {
    "seed": 0,
    "steps": 30,
    "batch_size": 8,
    "gradient_accumulation_steps": 1,
    "clip_norm": 1.0,
    "frozen_dtype": "bfloat16",
    "compute": {"dtype": "bfloat16"},
    "init": {
        "vision": f"owls/seen@{COMMIT}",
        "connector": "fresh",
        "llm": f"owls/tiny@{COMMIT}",
        "lora": "fresh",
    },
    "rules": [["lora/.*", "lora"], ["(vision|llm)/.*", "frozen"]],
    "recipes": {"lora": {"learning_rate": 0.01, "warmup_steps": 2}, "unused": {}},
    "data": {
        "mixture": [
            ["/home/owl/mine.jsonl", 1.0],
            [f"hf://datasets/owls/talks@{COMMIT}/a.jsonl", 2],
            ["SyntheticSource(size=10)", "1 epochs"],
        ],
        "sequence_length": 64,
        "image_slots": 1,
        "video_slots": 0,
        "frames": 4,
        "augmentation": "none",
    },
}
METRICS = [
    {"step": 10, "loss": 2.0, "learning_rate/lora": 0.01, "step_seconds/p50": 1.0},
    {"step": 20, "held_out/loss": 1.25, "loss": 1.5, "nothing/score": float("nan")},
    {"step": 30, "loss": 1.0, "held_out/loss": 1.5},
]


@pytest.fixture
def model(tmp_path):
    directory = tmp_path / "model"
    directory.mkdir()
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in METRICS))
    return directory


def described(**changes):
    values = {
        "repo": "owls/mine",
        "parts": {"llm": "llama, 10 parameters"},
        "is_adapter": False,
        "is_merged": False,
        "text_only": False,
        "bases": {},
        "run": None,
        "commands": ["python -m owl_jax.convert --push=owls/mine"],
    }
    return Described(**{**values, **changes})


def test_a_run_is_told_by_its_workdir(model):
    (model.parent / "command.txt").write_text("python -m owl_jax.train --workdir=w\n")
    run = read_run(model)
    assert (run.step, run.metrics) == (30, {"loss": "1", "held_out/loss": "1.5"})
    card = model_card(described(run=run, commands=[run.command]))
    data = ModelCard(card).data
    assert (data.library_name, data.pipeline_tag) == ("owl_jax", "image-text-to-text")
    assert data.base_model == ["owls/seen", "owls/tiny"]
    assert data.base_model_relation == "finetune" and data.datasets == ["owls/talks"]
    assert data.license is None
    for line in (
        f"- llm: `owls/tiny@{COMMIT}`",
        "| mine.jsonl | 1.0 |",
        f"| hf://datasets/owls/talks@{COMMIT}/a.jsonl | 2 |",
        "| SyntheticSource(size=10) | 1 epochs |",
        "- batch_size: 8",
        "- `lora/.*`: lora",
        "- lora: learning_rate 0.01, warmup_steps 2",
        "Step 30:",
        "| held_out/loss | 1.5 |",
        "python -m owl_jax.train --workdir=w",
        "    python -m owl_jax.chat --model=owls/mine",
    ):
        assert line in card.splitlines()
    assert "unused" not in card and "connector" not in card and "/home" not in card


def test_the_metrics_are_those_of_the_step_that_was_chosen(model):
    best = {"metric": "held_out/loss", "mode": "min", "value": 1.25, "step": 20}
    (model / "best.json").write_text(json.dumps(best))
    run = read_run(model)
    assert (run.step, run.metrics) == (20, {"loss": "1.5", "held_out/loss": "1.25"})
    assert "Step 20, which has the best held_out/loss:" in model_card(described(run=run))


def test_what_is_unknown_is_left_out(tmp_path):
    card = model_card(described(text_only=True))
    assert ModelCard(card).data.to_dict() == {
        "library_name": "owl_jax",
        "pipeline_tag": "text-generation",
    }
    headings = [line for line in card.splitlines() if line.startswith("#")]
    assert headings == ["# mine", "## Model", "## Commands"]
    assert read_run(tmp_path / "model") is None
    # A path of this machine is no repository, even if it has the form of a name.
    local = model_card(described(bases={"source": "weights/owl"}))
    assert ModelCard(local).data.base_model is None and "- source: `owl`, a directory" in local


def test_an_adapter_needs_its_base():
    bases = {"base of the adapter": f"owls/tiny@{COMMIT}"}
    card = model_card(described(is_adapter=True, bases=bases))
    data = ModelCard(card).data
    assert (data.base_model, data.base_model_relation) == ("owls/tiny", "adapter")
    assert "    python -m owl_jax.chat --model=owls/tiny --adapter=owls/mine" in card.splitlines()
    merged = model_card(described(is_merged=True, bases=bases))
    assert ModelCard(merged).data.base_model_relation == "merge"


def test_another_program_s_files_are_told_apart(model):
    (model.parent / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(UserError, match=r"not a training run's .*copy the model to a folder"):
        read_run(model)
