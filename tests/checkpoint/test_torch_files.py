"""pytorch_model.bin without PyTorch; what it holds is read in tests/parity, where PyTorch is."""

import json
import shutil
import sys

import directories
import golden
import pytest

import owl_jax
from owl_jax.checkpoint.adapter import open_adapter
from owl_jax.checkpoint.hf_import import open_family, open_files
from owl_jax.checkpoint.schema import ADAPTER_FILE
from owl_jax.errors import UserError


@pytest.fixture(autouse=True)
def without_torch(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)


def _message(path):
    return (
        f"{path} was written by PyTorch, which is needed to read it: pip install 'owl_jax[convert]'"
    )


def test_what_is_to_be_installed_is_said_in_one_line(tmp_path):
    directories.copy(directories.LLAMA, tmp_path)
    (tmp_path / directories.WEIGHTS).rename(tmp_path / "pytorch_model.bin")
    with pytest.raises(UserError) as caught:
        owl_jax.load(tmp_path)
    assert str(caught.value) == _message(tmp_path / "pytorch_model.bin")


def test_shards_and_adapters_ask_for_it_too(tmp_path):
    (tmp_path / "one.bin").touch()
    index = {"weight_map": {"x": "one.bin"}}
    (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    with pytest.raises(UserError) as caught:
        open_files(tmp_path)
    assert str(caught.value) == _message(tmp_path / "one.bin")
    shutil.copyfile(directories.ADAPTER / ADAPTER_FILE, tmp_path / ADAPTER_FILE)
    (tmp_path / "adapter_model.bin").touch()
    with pytest.raises(UserError) as caught:
        open_adapter(tmp_path, golden.model(golden.LLAMA)[0])
    assert str(caught.value) == _message(tmp_path / "adapter_model.bin")


def test_safetensors_are_taken_where_both_are(tmp_path):
    directories.copy(directories.LLAMA, tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"anything")
    assert open_family(tmp_path).config == golden.model(golden.LLAMA)[0]
