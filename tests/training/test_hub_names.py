"""Runs with names of the hub: what they record, and what a resumed run takes."""

import json

import forked
import hub_python
import pytest
import tiny
from hub_server import serving
from quick_compile import on_devices
from source_files import text

CONFIG = """
import dataclasses

from owl_jax.models.lora import LoraConfig
from owl_jax.training.config import base_config
import tiny


def get_config():
    config = base_config(dataclasses.replace(tiny.CONFIG, lora=LoraConfig(2, 4.0, 0.0)))
    config.steps, config.batch_size = 1, 1
    config.init.vision = config.init.connector = config.init.llm = "owls/tiny"
    config.rules = (("lora/.*", "lora"), (".*", "frozen"))
    config.recipes.lora = {"learning_rate": 1e-2}
    config.frozen_dtype = config.compute.dtype = "float32"
    config.compute.remat = "none"
    config.data.sequence_length = 64
    config.data.mixture = (("hf://datasets/owls/talks/a.jsonl", 1.0),)
    config.data.threads = 1
    return config
"""


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    with serving() as hub:
        folder = tmp_path_factory.mktemp("models")
        hub.add("owls/tiny", tiny.write_model(folder / "tiny"))
        line = json.dumps({"text": text()}).encode()
        hub.add("owls/talks", {"a.jsonl": line + b"\n" + line}, "datasets")
        yield hub


PIN = """
    from pathlib import Path
    from ml_collections import ConfigDict
    from owl_jax.training.config import base_config, check_directories
    from owl_jax.training.hub_names import pin_names
    import tiny

    config = base_config(tiny.CONFIG)
    config.init.llm, config.tokenizer = "owls/tiny", "owls/words@main"
    config.init.vision, config.init.connector = "weights/none", "./missing"
    config.data.mixture = (("hf://datasets/owls/talks/a.jsonl", 1.0), ("b.jsonl", 2.0, "c"))
    try:
        pins, absent = pin_names(config, Path("."))
    except UserError as error:
        sys.exit(print(error))
    pins.write()
    print(config.init.vision, config.init.connector, config.init.llm, config.tokenizer)
    print(config.data.mixture[0][0], *config.data.mixture[1])
    print(absent)
    try:
        check_directories(config, absent)
    except UserError as error:
        print(error)
"""


def test_names_get_their_commits(hub, tmp_path):
    words = hub.add("owls/words", {"tokenizer.model": b"1", "model.safetensors": b"not needed"})
    model, talks = (
        hub.repositories[kind, name].refs["main"]
        for kind, name in (("models", "owls/tiny"), ("datasets", "owls/talks"))
    )
    names, mixture, absent, missing = hub_python.run(hub, tmp_path, PIN)
    assert names == f"weights/none ./missing owls/tiny@{model} owls/words@{words}"
    assert mixture == f"hf://datasets/owls/talks@{talks}/a.jsonl b.jsonl 2.0 c"
    reason = f"the hub at {hub.url} shows no such model (HTTP 401)"
    assert absent == str({"weights/none": reason})
    assert missing.startswith("not found: './missing' (config.init.connector), ")
    assert f"'weights/none' (config.init.vision; {reason}), " in missing
    assert "'b.jsonl' (config.data.mixture[1])" in missing and "owls" not in missing.split("Put")[0]
    assert json.loads((tmp_path / "hub.json").read_text()) == {
        "owls/tiny": model,
        "owls/words@main": words,
        "hf://datasets/owls/talks": talks,
    }
    # Again, after another commit.
    hub.add("owls/words", {"tokenizer.model": b"2"})
    assert hub_python.run(hub, tmp_path, PIN)[0] == names
    (tmp_path / "hub.json").write_text('{"owls/tiny": "newest"}')
    [damaged] = hub_python.run(hub, tmp_path, PIN)
    assert "hub.json: 'owls/tiny' is 'newest'; expected a commit; restore the file, or" in damaged


@pytest.mark.processes
def test_a_run_resumes_at_the_commit_of_its_start(hub, tmp_path):
    (tmp_path / "config.py").write_text(CONFIG)
    commit = hub.repositories["models", "owls/tiny"].refs["main"]

    variables = hub.environment(tmp_path, XLA_FLAGS=on_devices(1))

    def train(*flags):
        program = ("-m", "owl_jax.train", "--config=config.py", "--workdir=run", *flags)
        result = forked.run(*program, environment=variables, directory=tmp_path)
        assert result.returncode == 0, result.stderr
        return result

    train()
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["init"]["llm"] == f"owls/tiny@{commit}"
    assert "owl_jax.train --config=config.py" in (tmp_path / "run" / "command.txt").read_text()
    base = json.loads((tmp_path / "run" / "model" / "owl_jax_base.json").read_text())
    assert base["name"] == f"owls/tiny@{commit}"
    # Other weights, which no run may resume with.
    other = tiny.write_model(tmp_path / "other", tiny.CONFIG)
    (other / "config.json").write_text("{}")
    hub.add("owls/tiny", other)
    assert "resumed from step 1" in train("--config.steps=2").stdout

    program = ("-m", "owl_jax.convert", "--source=run/model", "--target=peft", "--format=peft")
    result = forked.run(*program, environment=variables, directory=tmp_path)
    assert result.returncode == 0, result.stderr
    adapter = json.loads((tmp_path / "peft" / "adapter_config.json").read_text())
    assert (adapter["base_model_name_or_path"], adapter["revision"]) == ("owls/tiny", commit)
