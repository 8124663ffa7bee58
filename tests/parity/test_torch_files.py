"""Files that torch.save writes: read to the bit, and nothing in them is run."""

import os
import pickle
import re

import numpy as np
import pytest
import reference
import torch

from owl_jax.checkpoint.hf_import import open_files
from owl_jax.checkpoint.model_directory import open_subtrees
from owl_jax.checkpoint.torch_files import TorchFiles
from owl_jax.errors import UserError

FLOATS = (torch.bfloat16, torch.float16, torch.float32)

# Zip archives since torch 1.6; before that one pickle after another.
FORMATS = pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])


class Code:
    """Unpickled, it makes a file."""

    def __init__(self, target):
        self.target = str(target)

    def __reduce__(self):
        return open, (self.target, "w")


def write(path, content, zipped=True):
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    return path


def refused(*paths):
    """The line that says why."""
    with pytest.raises(UserError) as error:
        files = TorchFiles(list(paths))
        for name in files.names():
            files.read(name)
    assert "\n" not in str(error.value)
    assert str(paths[0].parent) in str(error.value)
    return str(error.value)


@FORMATS
@pytest.mark.parametrize("dtype", FLOATS)
def test_every_bit_of_every_number(dtype, zipped, tmp_path):
    """All 16-bit patterns, or float32 of every exponent: also what is not finite."""
    if dtype == torch.float32:
        bits = torch.randint(-(2**31), 2**31, (64, 1024), dtype=torch.int64).to(torch.int32)
    else:
        bits = torch.arange(-(2**15), 2**15).to(torch.int16).reshape(64, 1024)
    path = write(tmp_path / "pytorch_model.bin", {"x": bits.view(dtype)}, zipped)
    files = open_files(tmp_path)
    assert str(files.dtype("x")) == str(dtype).removeprefix("torch.")
    assert files.shape("x") == (64, 1024)
    kind = np.int32 if dtype == torch.float32 else np.int16
    np.testing.assert_array_equal(files.read("x").view(kind), bits.numpy())
    part = (slice(3, 5), slice(1000, 1024))
    np.testing.assert_array_equal(files.read("x", part).view(kind), bits.numpy()[part])
    infinite = int((~torch.isfinite(bits.view(dtype))).sum())
    assert bool(files.infinite) == (dtype == torch.float16)
    assert infinite > 0
    assert path.exists()


@FORMATS
def test_views_parameters_scalars_and_shared_memory(zipped, tmp_path):
    base = torch.arange(24.0).reshape(4, 6)
    content = {
        "base": base,
        "transposed": base.T,
        "part": base[1:3, ::2],
        "parameter": torch.nn.Parameter(base.clone()),
        "scalar": torch.tensor(0.5, dtype=torch.bfloat16),
        "empty": torch.zeros(0, 3),
    }
    files = TorchFiles([write(tmp_path / "a.bin", content, zipped)])
    assert files.names() == content.keys()
    for name, value in content.items():
        got = files.read(name)
        assert got.shape == files.shape(name) == tuple(value.shape)
        np.testing.assert_array_equal(got.astype(np.float32), value.detach().float().numpy())


def test_files_together_and_a_tensor_in_two(tmp_path):
    one = write(tmp_path / "1.bin", {"a": torch.ones(2), "b": torch.zeros(2)})
    two = write(tmp_path / "2.bin", {"c": torch.full((2,), 3.0)}, zipped=False)
    files = TorchFiles([one, two])
    for name, value in (("a", 1), ("c", 3), ("b", 0), ("c", 3)):
        np.testing.assert_array_equal(files.read(name), np.full(2, value, np.float32))
    write(two, {"b": torch.zeros(2)})
    assert "in more than one file: b" in refused(one, two)


@FORMATS
def test_code_is_not_run(zipped, tmp_path):
    made = tmp_path / "made"
    path = write(tmp_path / "a.bin", {"x": torch.ones(2), "y": Code(made)}, zipped)
    assert "would run code" in refused(path)
    assert not made.exists()
    # The trap works.
    torch.load(path, weights_only=False)["y"].close()
    assert made.exists()


def test_code_in_a_bare_pickle_is_not_run(tmp_path):
    made = tmp_path / "made"
    path = tmp_path / "a.bin"
    path.write_bytes(pickle.dumps(Code(made), protocol=2))
    assert str(path) in refused(path)
    assert not made.exists()


def test_a_whole_module_is_refused(tmp_path):
    path = write(tmp_path / "a.bin", torch.nn.Linear(2, 2))
    assert "more than tensors" in refused(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([torch.ones(2)], "found list, expected a dictionary of tensors"),
        ({"x": torch.ones(2), "step": 3}, "step is int"),
        ({"model": {"x": torch.ones(2)}}, "model is (dict|OrderedDict)"),
        ({"x": None}, "x is NoneType; expected a dictionary of tensors"),
        ({"x": "words"}, "x is str"),
        ({3: torch.ones(2)}, "key 3 is not a string; expected a state_dict"),
        (torch.ones(2), "found Tensor"),
        (None, "found NoneType"),
    ],
)
def test_what_is_no_state_dict_is_refused(content, message, tmp_path):
    assert re.search(message, refused(write(tmp_path / "a.bin", content)))


KINDS = {
    "bool": lambda: torch.ones(2, dtype=torch.bool),
    "uint8": lambda: torch.ones(2, dtype=torch.uint8),
    "int8": lambda: torch.ones(2, dtype=torch.int8),
    "int32": lambda: torch.ones(2, dtype=torch.int32),
    "int64": lambda: torch.tensor(3),
    "complex64": lambda: torch.ones(2, dtype=torch.complex64),
    "float8_e4m3fn": lambda: torch.ones(2).to(torch.float8_e4m3fn),
    "float32 in the layout sparse_coo": lambda: torch.eye(3).to_sparse(),
    "float32 in the layout sparse_csr": lambda: torch.eye(3).to_sparse_csr(),
    "qint8": lambda: torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8),
    "float32 without data (on the meta device)": lambda: torch.ones(2, device="meta"),
}


@pytest.mark.filterwarnings("ignore")  # of beta layouts, and of quantisation that moves elsewhere
@pytest.mark.parametrize("kind", KINDS)
def test_only_plain_floats_pass_as_weights(kind, tmp_path):
    path = write(tmp_path / "a.bin", {"x": torch.ones(2), "y.weight": KINDS[kind]()})
    assert refused(path) == (
        f"{path}: y.weight is {kind}; expected floats: bfloat16, float16, float32 or float64"
    )
    path = write(tmp_path / "b.bin", {"x": torch.ones(2), "embeddings.position_ids": KINDS[kind]()})
    assert TorchFiles([path]).names() == {"x", "embeddings.position_ids"}


def test_views_that_are_not_contiguous_are_read(tmp_path):
    base = torch.nn.Parameter(torch.arange(12, dtype=torch.bfloat16).reshape(3, 4))
    content = {"x": base.t(), "y": base[:, ::2], "z": torch.ones(1).expand(5), "w": base}
    files = TorchFiles([write(tmp_path / "a.bin", content)])
    for name, value in content.items():
        expected = value.detach().float().numpy()
        np.testing.assert_array_equal(files.read(name).astype(np.float32), expected)


@pytest.mark.parametrize("what", ["fifo", "folder", "device"])
def test_what_is_no_regular_file_is_not_waited_for(what, tmp_path):
    path = tmp_path / "a.bin"
    if what == "fifo":
        os.mkfifo(path)
    elif what == "folder":
        path.mkdir()
    else:
        path.symlink_to("/dev/zero")
    assert "not a readable PyTorch file (is a " in refused(path)


@FORMATS
@pytest.mark.parametrize("kept", [0.0, 0.001, 0.1, 0.5, 0.9, 0.999])
def test_a_truncated_file(kept, zipped, tmp_path):
    path = write(tmp_path / "a.bin", {"x": torch.ones(100, 100)}, zipped)
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content))])
    message = refused(path)
    assert "not a readable PyTorch file" in message


@pytest.mark.parametrize("size", [1, 18, 28, 40])
def test_a_file_truncated_within_its_names(size, tmp_path):
    path = write(tmp_path / "a.bin", {"x": torch.ones(100, 100)}, zipped=False)
    path.write_bytes(path.read_bytes()[:size])
    assert "not a readable PyTorch file" in refused(path)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"version https://git-lfs.github.com/spec/v1\n", "is a Git LFS pointer"),
        (b"\0" * 99, "is it a git-lfs pointer?"),
    ],
)
def test_a_file_of_another_kind(content, words, tmp_path):
    path = tmp_path / "a.bin"
    path.write_bytes(content)
    found = refused(path)
    assert "not a readable PyTorch file" in found and words in found


def test_a_model_in_the_legacy_format(tmp_path):
    model = reference.llama()
    model.config.save_pretrained(tmp_path)
    write(tmp_path / "pytorch_model.bin", model.state_dict(), zipped=False)
    opened = open_subtrees(tmp_path, ["llm"])
    stored = opened.params["llm"]["embed_tokens"]["embedding"]
    got = stored[tuple(slice(0, size) for size in stored.shape)]
    np.testing.assert_array_equal(got, model.model.embed_tokens.weight.detach().numpy())


def test_safetensors_come_first(tmp_path):
    """A damaged .bin beside them does not matter."""
    reference.save(reference.llama(), tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"no file")
    open_subtrees(tmp_path, ["llm"])
