"""configs/stage1.py, made small, from a CLIP and a LLaMA that transformers wrote."""

import json
import math
import os
import runpy
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
import reference
from flax.traverse_util import flatten_dict
from PIL import Image
from quick_compile import on_devices
from read_whole import load_model, read_subtrees

from owl_jax.errors import UserError
from owl_jax.text.tokenizer import train_sentencepiece
from owl_jax.text.turns import SYSTEM
from owl_jax.training.loop import train

ROOT = Path(__file__).parents[2]
VOCABULARY = 340

# Of config.model; the rest is that of the released model.
SIZES = {
    "vision.image_size": 42,
    "vision.hidden_size": 48,
    "vision.intermediate_size": 80,
    "vision.num_layers": 3,
    "vision.num_heads": 4,
    "vision.layer_norm_eps": 1e-5,  # CLIP's
    "connector.hidden_size": 48,
    "connector.mlp_size": 64,
    "connector.num_layers": 1,
    "connector.num_heads": 4,
    "llm.vocab_size": VOCABULARY,
    "llm.hidden_size": 48,
    "llm.intermediate_size": 88,
    "llm.num_layers": 3,
    "llm.num_heads": 6,
    "llm.num_kv_heads": 2,
}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """clip/, llama/ with its tokenizer, and pairs of pictures and captions."""
    directory = tmp_path_factory.mktemp("first_stage")
    reference.save(reference.clip(), directory / "clip")
    language_model = reference.llama(vocab_size=VOCABULARY, rope_theta=10000.0, rms_norm_eps=1e-6)
    reference.save(language_model, directory / "llama")
    lines = [SYSTEM, "Human: ", "AI: A picture of one colour."]
    train_sentencepiece(lines, VOCABULARY, directory / "llama" / "tokenizer.model")
    records = []
    for i in range(8):
        Image.new("RGB", (50, 40), (30 * i, 90, 200)).save(directory / f"{i}.png")
        text = "\n".join([lines[0], "Human: <image>", lines[2]])
        records.append({"text": text, "image": [f"{i}.png"], "task_type": "caption"})
    pairs = "".join(f"{json.dumps(record)}\n" for record in records)
    (directory / "pairs.jsonl").write_text(pairs)
    return directory


def settings(files):
    """What the command line sets: places, sizes, two steps of two micro-batches."""
    return {
        "steps": 2,
        "batch_size": 16,
        "gradient_accumulation_steps": 2,
        "log_every": 1,
        "init.vision": str(files / "clip"),
        "init.llm": str(files / "llama"),
        "data.mixture": ((str(files / "pairs.jsonl"), 1.0),),
        "data.sequence_length": 192,  # a small vocabulary makes long captions
        "recipes.visual.warmup_steps": 1,
        **{f"model.{key}": value for key, value in SIZES.items()},
    }


def stage1(files, changes):
    """The config with these settings and some others."""
    config = runpy.run_path(str(ROOT / "configs" / "stage1.py"))["get_config"]()
    config.update_from_flattened_dict({**settings(files), **changes})
    return config


def test_two_steps(files, tmp_path):
    command = [sys.executable, "-m", "owl_jax.train", "--config=configs/stage1.py"]
    given = [f"--config.{key}={value}" for key, value in settings(files).items()]
    done = subprocess.run(
        [*command, f"--workdir={tmp_path / 'run'}", *given],
        cwd=ROOT,
        env=os.environ | {"XLA_FLAGS": on_devices(1)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert f"note: {files / 'clip'}: CLIP's text tower" in done.stderr
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    metrics = [json.loads(line) for line in lines]
    assert [line["step"] for line in metrics] == [1, 2]
    assert all(line["skipped"] == 0 and 0 < line["loss"] < 20 for line in metrics)
    assert all(0 < line["grad_norm"] < math.inf for line in metrics)

    config, params = load_model(tmp_path / "run" / "model", np.float32)
    assert config.llm.vocab_size == VOCABULARY
    frozen = read_subtrees(files / "llama", ["llm"], "bfloat16")
    for path, value in flatten_dict(frozen).items():
        got = flatten_dict(params)[path]
        np.testing.assert_array_equal(got, value.astype(np.float32))

    # One step of the peak learning rate, after one of none.
    start = read_subtrees(files / "clip", ["vision"], np.float32)["vision"]
    moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), params["vision"], start)
    assert 0 < max(jax.tree.leaves(moved)) < 2e-4
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(params))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model.vision.num_layers": 2}, ("clip: vision", "(3, ", "(2, ")),
        ({"model.vision.num_heads": 6}, ("clip: vision", "4, 12", "6, 8")),
        (
            {"model.vision.hidden_size": 64, "model.connector.hidden_size": 64},
            ("clip: vision", "48", "64"),
        ),
        ({"model.vision.patch_size": 7}, ("clip: vision", "588, 48", "147, 48")),
        ({"model.llm.num_kv_heads": 6}, ("llama: llm", "2, 8", "6, 8")),
        ({"model.llm.hidden_size": 96}, ("llama: llm", "48", "96")),
        ({"model.llm.vocab_size": 400}, ("llama: llm", "340", "400")),
    ],
)
def test_sizes_that_do_not_fit_are_one_line(files, changes, words, tmp_path):
    with pytest.raises(UserError, match=r"does not fit config\.model") as error:
        train(stage1(files, changes), tmp_path / "run")
    assert "\n" not in str(error.value)
    for word in words:
        assert word in str(error.value)


@pytest.mark.parametrize(
    ("branch", "place", "message"),
    [
        ("vision", "llama", "llama: the model has no vision; it has llm"),
        ("llm", "clip", "clip: the model has no llm; it has vision"),
        ("connector", "clip", "clip: the model has no connector; it has vision"),
    ],
)
def test_a_part_that_is_not_there_is_one_line(files, branch, place, message, tmp_path):
    changes = {f"init.{branch}": str(files / place), "tokenizer": str(files / "llama")}
    config = stage1(files, changes)
    with pytest.raises(UserError, match=message) as error:
        train(config, tmp_path / "run")
    assert "\n" not in str(error.value)
