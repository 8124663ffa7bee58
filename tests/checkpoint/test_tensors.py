"""Safetensors files by a table: what does not fit is listed, what does is read and written."""

import json
import os
import shutil
import socket
import struct

import directories
import golden
import jax
import ml_dtypes
import numpy as np
import pytest
from directories import WEIGHTS
from safetensors.numpy import load_file, save_file

from owl_jax.checkpoint.adapter import WEIGHTS_FILE, open_adapter
from owl_jax.checkpoint.hf_import import abstract_params
from owl_jax.checkpoint.lazy_arrays import read
from owl_jax.checkpoint.schema import ADAPTER_FILE
from owl_jax.checkpoint.tensors import TensorFiles, from_source, to_source
from owl_jax.errors import UserError
from owl_jax.models.families.mplug_owl import MPLUG_OWL
from owl_jax.models.transforms import Flat, Linear, Same
from owl_jax.models.weight_names import Row

HEAD = "language_model.lm_head.weight"
NORM = "language_model.model.norm.weight"


def _opened(case, weights, path):
    """The tree of a recorded model's table over `weights`."""
    save_file(weights, path / WEIGHTS)
    config, _ = golden.model(case)
    files, abstract = TensorFiles([path / WEIGHTS]), abstract_params(config)
    return from_source(MPLUG_OWL.weight_rows(config), files, abstract, path, MPLUG_OWL.tied(config))


def test_tensors_that_do_not_fit_are_all_listed(tmp_path):
    tensors = directories.tensors(directories.LLAMA)
    del tensors[NORM], tensors["query_tokens"]
    tensors["stranger"] = tensors["another.stranger"] = np.zeros(3, np.float32)
    tensors[HEAD] = tensors[HEAD].T.copy()
    tensors["abstractor.vit_eos"] = np.zeros((1, 1, 7), np.float32)
    with pytest.raises(UserError) as caught:
        _opened(golden.LLAMA, tensors, tmp_path)
    assert str(caught.value) == (
        f"{tmp_path}: tensors that do not fit the model (6): missing: {NORM}, query_tokens; "
        "unexpected: another.stranger, stranger; of another shape: abstractor.vit_eos (found "
        f"(1, 1, 7), expected (1, 1, 48)), {HEAD} (found (48, 128), expected (128, 48))"
    )


def test_tied_head_may_be_absent_or_equal_but_not_different(tmp_path):
    tensors = directories.tensors(directories.BLOOM)
    head = tensors.pop(HEAD)
    expected = golden.model(golden.BLOOM)[1]  # read with an equal head
    opened = _opened(golden.BLOOM, tensors, tmp_path)
    directories.assert_same_tree(jax.tree.map(read, opened), expected)
    with pytest.raises(UserError, match=rf"tied, but different: {HEAD} \(from .*word_embeddings"):
        _opened(golden.BLOOM, {**tensors, HEAD: head + 1}, tmp_path)


def test_tensor_in_two_files_is_an_error(tmp_path):
    twice = {name: np.zeros(2, np.float32) for name in ("b", "a")}
    for file, tensors in {"one": twice, "two": twice, "three": {"c": np.zeros(1)}}.items():
        save_file(tensors, tmp_path / file)
    paths = [tmp_path / file for file in ("one", "two", "three")]
    with pytest.raises(UserError, match=f"{tmp_path}: in more than one file: a, b"):
        TensorFiles(paths)
    assert TensorFiles(paths[1:]).names() == {"a", "b", "c"}


@pytest.mark.parametrize("kept", [slice(0, -100), slice(0, 100), slice(0, 4), slice(0, 0)])
def test_truncated_file_is_an_error(kept, tmp_path):
    whole = (directories.LLAMA / WEIGHTS).read_bytes()
    (tmp_path / WEIGHTS).write_bytes(whole[kept])
    with pytest.raises(UserError, match=r"model\.safetensors: not a readable safetensors file"):
        TensorFiles([tmp_path / WEIGHTS])


def test_numbers_that_weights_cannot_be_are_an_error(tmp_path):
    save_file({"mask": np.zeros(3, bool)}, tmp_path / WEIGHTS)
    with pytest.raises(UserError, match="mask is BOOL; expected floats"):
        TensorFiles([tmp_path / WEIGHTS])


@pytest.mark.parametrize("kind", ["I8", "U8", "I32", "I64", "U16", "BOOL", "F8_E4M3", "F8_E5M2"])
def test_only_floats_pass_as_weights(kind, tmp_path):
    width = {"I32": 4, "I64": 8, "U16": 2}.get(kind, 1)
    buffers = ("model.embeddings.position_ids", "layers.0.rotary_emb.inv_freq")
    _write_raw(tmp_path / "buffers", dict.fromkeys(buffers, (kind, width)))
    assert TensorFiles([tmp_path / "buffers"]).names() == set(buffers)
    _write_raw(tmp_path / WEIGHTS, {"x": ("F32", 4), "y.weight": (kind, width)})
    with pytest.raises(UserError) as told:
        TensorFiles([tmp_path / WEIGHTS])
    assert str(told.value) == (
        f"{tmp_path / WEIGHTS}: y.weight is {kind}; expected floats: bfloat16, float16, float32 or "
        "float64"
    )


def test_integers_in_an_adapter_are_refused(tmp_path):
    tensors = load_file(directories.ADAPTER / WEIGHTS_FILE)
    name = min(tensors)
    save_file(tensors | {name: tensors[name].astype(np.int32)}, tmp_path / WEIGHTS_FILE)
    shutil.copyfile(directories.ADAPTER / ADAPTER_FILE, tmp_path / ADAPTER_FILE)
    with pytest.raises(UserError, match=f"{name} is I32; expected floats"):
        open_adapter(tmp_path, golden.model(golden.LLAMA)[0])


def _write_raw(path, kinds):
    """A file of one element each, of kinds that NumPy does not know."""
    header, end = {}, 0
    for name, (kind, width) in kinds.items():
        header[name] = {"dtype": kind, "shape": [1], "data_offsets": [end, end + width]}
        end += width
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(end))


@pytest.mark.parametrize("what", ["fifo", "folder", "socket", "device"])
def test_what_is_no_regular_file_is_not_waited_for(what, tmp_path):
    path = tmp_path / WEIGHTS
    if what == "fifo":
        os.mkfifo(path)
    elif what == "folder":
        path.mkdir()
    elif what == "device":
        path.symlink_to("/dev/zero")
    else:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(path))
    with pytest.raises(UserError, match=r"not a readable safetensors file \(is a "):
        TensorFiles([path])


@pytest.mark.parametrize("length", [2**63, 2**64 - 1, 10**8 + 1, 5])
def test_headers_that_claim_too_much_are_one_line(length, tmp_path):
    (tmp_path / WEIGHTS).write_bytes(struct.pack("<Q", length) + b'{"\x1b[2J": 1' + b" " * 50)
    with pytest.raises(UserError, match="not a readable safetensors file") as told:
        TensorFiles([tmp_path / WEIGHTS])
    assert str(told.value).isprintable()


def test_a_file_that_is_cut_after_it_was_opened_is_one_line(tmp_path):
    save_file({"x": np.zeros(9, np.float32)}, tmp_path / WEIGHTS)
    files = TensorFiles([tmp_path / WEIGHTS])
    os.truncate(tmp_path / WEIGHTS, 20)
    with pytest.raises(UserError, match="not a readable safetensors file"):
        files.read("x")


def test_elements_that_are_no_numbers_are_noted(tmp_path):
    tensors = {
        name: np.array([1, np.nan, np.inf], dtype)
        for name, dtype in {"f": np.float32, "b": ml_dtypes.bfloat16, "d": np.float64}.items()
    }
    save_file(tensors, tmp_path / WEIGHTS)
    files = TensorFiles([tmp_path / WEIGHTS])
    for name in (*tensors, "f"):
        files.read(name)
    assert (files.nans, files.infinite) == (dict.fromkeys(tensors, 1), {})


def test_layers_of_several_types_take_the_widest(tmp_path):
    tensors = directories.tensors(directories.LLAMA)
    names = [f"language_model.model.layers.{i}.self_attn.q_proj.weight" for i in range(2)]
    tensors[names[0]] = tensors[names[0]].astype(ml_dtypes.bfloat16)
    tensors[NORM] = tensors[NORM].astype(ml_dtypes.bfloat16)
    llm = _opened(golden.LLAMA, tensors, tmp_path)["llm"]
    assert llm["norm"]["scale"].dtype == ml_dtypes.bfloat16
    kernel = read(llm["layers"]["q_proj"]["kernel"])
    assert kernel.dtype == np.float32
    for layer, name in enumerate(names):
        flat = kernel[layer].reshape(48, 48).T
        np.testing.assert_array_equal(flat, tensors[name].astype(np.float32))


def test_parts_are_counted_and_infinities_of_float16_noted(tmp_path):
    array = np.arange(12, dtype=np.float16).reshape(3, 4)
    array[1, 2] = np.inf
    save_file({"x": array, "wide": np.full(2, np.inf, np.float32)}, tmp_path / WEIGHTS)
    files = TensorFiles([tmp_path / WEIGHTS])
    part = (slice(1, 3), slice(1, 3))
    np.testing.assert_array_equal(files.read("x", part), array[part])
    assert files.bytes_read == 8
    files.read("wide")
    assert (files.bytes_read, files.infinite) == (16, {"x": 1})


def test_tensors_of_one_target_lie_on_its_axis_before_the_last(tmp_path):
    rows = [Row(f"{{i}}.{name}", "x", Linear()) for name in "qk"]
    random = np.random.default_rng(0)
    tensors = {f"{i}.{name}": random.normal(size=(6, 5)) for i in range(2) for name in "qk"}
    abstract = {"x": np.empty((2, 5, 3, 2, 2))}  # the second 2: q and k

    def opened(tensors):
        save_file(tensors, tmp_path / WEIGHTS)
        return from_source(rows, TensorFiles([tmp_path / WEIGHTS]), abstract, tmp_path)["x"]

    part = (slice(1, 2), slice(2, 4), slice(0, 3), slice(1, 2), slice(0, 2))
    expected = tensors["1.k"].T.reshape(5, 3, 2)[2:4]
    np.testing.assert_array_equal(opened(tensors)[part][0, :, :, 0], expected)
    del tensors["1.k"]
    with pytest.raises(UserError, match=r"missing: 1\.k"):
        opened(tensors)


def test_stacked_rows_are_written_apart(tmp_path):
    """q and k of each layer, each with its head axis, as they were read."""
    rows = [Row(f"{{i}}.{name}.weight", "x", Linear()) for name in "qk"]
    rows += [Row(f"{{i}}.{name}.bias", "y", Flat()) for name in "qk"]
    random = np.random.default_rng(0)
    tensors = {
        f"{i}.{name}.{kind}": random.normal(size=(6, 5) if kind == "weight" else 6)
        for i in range(2)
        for name in "qk"
        for kind in ("weight", "bias")
    }
    save_file(tensors, tmp_path / WEIGHTS)
    abstract = {"x": np.empty((2, 5, 3, 2, 2)), "y": np.empty((2, 3, 2, 2))}
    tree = from_source(rows, TensorFiles([tmp_path / WEIGHTS]), abstract, tmp_path)
    written = to_source(rows, tree)
    assert {tensor.name for tensor in written} == tensors.keys()
    for tensor in written:
        assert tensor.shape == tensors[tensor.name].shape
        np.testing.assert_array_equal(tensor.read(), tensors[tensor.name])


def test_written_tensors_say_what_they_will_be_before_they_are_made():
    made = []

    class Leaf:
        shape, dtype = (2, 3, 4), np.dtype(np.float16)

        def __getitem__(self, part):
            made.append(part[0].start)
            return np.full((1, 3, 4), part[0].start, np.float16)

    rows = [Row("layer.{i}", "a/b", Linear()), Row("one", "c", Same(1))]
    tensors = to_source(rows, {"a": {"b": Leaf()}, "c": np.arange(5.0)})
    assert [(tensor.name, tensor.shape, tensor.nbytes) for tensor in tensors] == [
        ("layer.0", (4, 3), 24),
        ("layer.1", (4, 3), 24),
        ("one", (1, 5), 40),
    ]
    assert made == []
    np.testing.assert_array_equal(tensors[1].read(), np.ones((4, 3), np.float16))
    assert made == [1]
    np.testing.assert_array_equal(tensors[2].read(), [np.arange(5.0)])
