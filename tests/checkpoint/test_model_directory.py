import json
import shutil
import subprocess
import sys

import golden
import jax
import numpy as np
import pytest
import tiny

from owl_jax.checkpoint.model_directory import load_model, read_branches, read_config, save_model
from owl_jax.errors import UserError


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return tiny.write_model(tmp_path_factory.mktemp("models") / "tiny")


def assert_same_tree(got, expected):
    assert jax.tree.structure(got) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        assert isinstance(a, np.ndarray)
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("case", [golden.LLAMA, golden.BLOOM, golden.VIDEO])
@pytest.mark.parametrize("format", ["huggingface", "orbax"])
def test_round_trip(case, format, tmp_path):
    config, params = load_model(golden.GOLDENS / case, "float32")
    target = tmp_path / "deep" / "copy"
    save_model(target, config, params, format)
    loaded_config, loaded = load_model(target, "float32")
    assert loaded_config == config
    assert_same_tree(loaded, params)
    # Nothing unfinished stays beside it.
    assert list(target.parent.iterdir()) == [target]


def test_dtype_is_chosen_when_reading(directory):
    _, exact = load_model(directory, "float32")
    _, params = load_model(directory, "bfloat16")
    assert_same_tree(params, jax.tree.map(lambda x: x.astype("bfloat16"), exact))


def test_tokenizer_files_come_along(directory, tmp_path):
    config, params = load_model(directory, "float32")
    for format in ("huggingface", "orbax"):
        save_model(tmp_path / format, config, params, format, tokenizer_source=directory)
        copied = (tmp_path / format / "tokenizer.model").read_bytes()
        assert copied == (directory / "tokenizer.model").read_bytes()


def test_some_branches_alone(directory, tmp_path):
    config, params = load_model(directory, "float32")
    save_model(tmp_path / "llm", config, {"llm": params["llm"]}, "orbax")
    assert_same_tree(read_branches(tmp_path / "llm", ["llm"], "float32"), {"llm": params["llm"]})
    with pytest.raises(UserError, match="no vision and no abstractor; it has llm"):
        load_model(tmp_path / "llm", "float32")
    with pytest.raises(UserError, match="no abstractor"):
        read_branches(tmp_path / "llm", ["abstractor"], "float32")
    with pytest.raises(UserError, match="no vision and no abstractor"):
        save_model(tmp_path / "x", config, {"llm": params["llm"]}, "huggingface")
    some = read_branches(golden.GOLDENS / golden.LLAMA, ["vision"], "float32")
    assert some.keys() == {"vision"}
    with pytest.raises(UserError, match="no lora"):
        read_branches(golden.GOLDENS / golden.LLAMA, ["lora"], "float32")


def test_existing_directories_are_not_touched(directory, tmp_path):
    config, params = load_model(directory, "float32")
    (tmp_path / "note.txt").write_text("mine")
    with pytest.raises(UserError, match="exists already"):
        save_model(tmp_path, config, params, "orbax")
    assert [path.name for path in tmp_path.iterdir()] == ["note.txt"]
    (tmp_path / "empty").mkdir()
    save_model(tmp_path / "empty", config, params, "orbax")
    assert read_config(tmp_path / "empty") == config


def change_config(directory, **changes):
    path = directory / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_damaged_directories(directory, tmp_path):
    def copy(name):
        return shutil.copytree(directory, tmp_path / name)

    with pytest.raises(UserError, match=r"no config\.json"):
        load_model(tmp_path, "float32")
    newer = copy("newer")
    change_config(newer, version=2)
    with pytest.raises(UserError, match="version 2; this owl_jax reads version 1"):
        load_model(newer, "float32")
    unknown = copy("unknown")
    model = tiny.CONFIG.to_dict()
    change_config(unknown, model=model | {"vision": {"eyes": 2}})
    with pytest.raises(UserError, match="eyes"):
        load_model(unknown, "float32")
    other = copy("other")
    change_config(other, model=model | {"llm": model["llm"] | {"hidden_size": 32}})
    with pytest.raises(UserError, match=r"llm/norm/scale: found \(16,\), expected \(32,\)"):
        load_model(other, "float32")
    empty = copy("empty")
    shutil.rmtree(empty / "params")
    with pytest.raises(UserError, match="no folder params"):
        load_model(empty, "float32")
    cut = copy("cut")
    metadata = cut / "params" / "_METADATA"
    metadata.write_text(metadata.read_text()[:100])
    with pytest.raises(UserError, match="damaged, copy the directory again"):
        load_model(cut, "float32")


@pytest.mark.parametrize("format", ["huggingface", "orbax"])
def test_full_disk_leaves_nothing_behind(format, directory, tmp_path):
    """Files of more than 20 kB cannot be written, as on a full disk."""
    code = (
        "import sys; from pathlib import Path\n"
        "from owl_jax.checkpoint.model_directory import load_model, save_model\n"
        "from owl_jax.errors import UserError\n"
        "import resource\n"
        f"config, params = load_model(Path({str(directory)!r}), 'float32')\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))\n"
        "try:\n"
        f"    save_model(Path({str(tmp_path / 'model')!r}), config, params, {format!r})\n"
        "except UserError as error:\n"
        "    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "cannot be written: File too large" in done.stdout
    assert list(tmp_path.iterdir()) == []
