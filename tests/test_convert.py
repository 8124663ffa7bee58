"""The command that converts: every format, adapters, dtypes; mistakes in one line."""

import dataclasses
import json
import os
import re
import shutil

import forked
import golden
import jax
import numpy as np
import pytest
from read_whole import load_model, read_subtrees
from safetensors.numpy import load_file, save_file

from owl_jax.checkpoint.adapter import WEIGHTS_FILE
from owl_jax.checkpoint.adapter_base import BASE_FILE, Base, base_hash, read_base
from owl_jax.checkpoint.checksums import SUMS_FILE
from owl_jax.checkpoint.checksums import verify as verify_directory
from owl_jax.checkpoint.model_directory import open_any_adapter, read_config, save_model
from owl_jax.checkpoint.schema import ADAPTER_FILE
from owl_jax.models.lora import merge

LLAMA, BLOOM = golden.GOLDENS / golden.LLAMA, golden.GOLDENS / golden.BLOOM
ADAPTER = golden.GOLDENS / golden.LORA
WEIGHTS = "model.safetensors"


def _convert(source, target, format, *flags):
    return forked.run(
        *("-m", "owl_jax.convert", f"--source={source}", f"--target={target}"),
        *(f"--format={format}", *flags),
    )


def _done(source, target, format, *flags):
    """Converts and returns (parameters, what stderr says); the summary line is checked."""
    done = _convert(source, target, format, *flags)
    assert done.returncode == 0, done.stderr
    found = re.fullmatch(
        r"(\S+) \((\w+)\): \d+ tensors, ([\d,]+) parameters, \d+\.\d\d GB of (\w+), "
        r"\d+\.\d s, peak memory \d+\.\d\d GB\n",
        done.stdout,
    )
    assert found, done.stdout
    assert found[1] == str(target)
    assert found[2] == format
    assert [path.name for path in target.parent.iterdir() if path.name.endswith("partial")] == []
    return int(found[3].replace(",", "")), found[4], done.stderr


def _refused(source, target, format, *flags):
    """The error of a conversion, which leaves nothing behind."""
    done = _convert(source, target, format, *flags)
    assert done.returncode == 1, done.stderr
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    assert not target.exists()
    assert [path.name for path in target.parent.iterdir() if path.name.endswith("partial")] == []
    return line.removeprefix("error: ")


def _assert_same(got, expected):
    assert jax.tree.structure(got) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(a, b)


def _size(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """The recorded adapter in our own form, alone, converted with its base."""
    target = tmp_path_factory.mktemp("converted") / "own"
    size, dtype, _ = _done(ADAPTER, target, "orbax", f"--base={LLAMA}")
    assert (size, dtype) == (_size(golden.model(golden.LORA)[1]["lora"]), "float32")
    return target


def test_to_our_own_form_and_back(tmp_path):
    config, params = golden.model(golden.BLOOM)
    size, dtype, said = _done(BLOOM, tmp_path / "own", "orbax")
    assert (size, dtype, said) == (_size(params), "float32", "")
    assert (tmp_path / "own" / "source_config.json").exists()
    _done(tmp_path / "own", tmp_path / "back", "huggingface", "--dtype=bfloat16")
    written = load_file(tmp_path / "back" / WEIGHTS)
    original = load_file(BLOOM / WEIGHTS)
    assert original.keys() - written.keys() == {"language_model.lm_head.weight"}
    for name, value in written.items():
        assert value.tobytes() == original[name].astype("bfloat16").tobytes(), name
    values = json.loads((tmp_path / "back" / "config.json").read_text())
    assert values["torch_dtype"] == "bfloat16"
    assert load_model(tmp_path / "back", "float32")[0] == config


def test_adapter_is_merged_from_either_form(own, tmp_path):
    config, params = golden.model(golden.LORA)
    expected = merge(params["llm"], params["lora"], config.lora)
    for adapter, format in ((ADAPTER, "huggingface"), (own, "orbax")):
        target = tmp_path / format
        size, _, _ = _done(LLAMA, target, format, f"--merge_adapter={adapter}")
        assert size == _size({**params, "lora": {}})
        merged_config, merged = load_model(target, "float32")
        assert merged_config == dataclasses.replace(config, lora=None)
        assert not (target / BASE_FILE).exists()
        # What owl_jax trained, which a record of its base tells, gets prompts as in training.
        values = json.loads((target / "config.json").read_text())
        assert values.get("as_trained", False) == (adapter == own)
        for a, b in zip(jax.tree.leaves(merged["llm"]), jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6)


def test_a_model_s_own_adapter_is_merged(tmp_path):
    config, params = golden.model(golden.LORA)
    save_model(tmp_path / "own", config, params, "orbax", as_trained=True)
    assert (tmp_path / "own" / BASE_FILE).exists()
    _done(tmp_path / "own", tmp_path / "merged", "orbax", "--merge")
    merged_config, merged = load_model(tmp_path / "merged", "float32")
    assert merged_config == dataclasses.replace(config, lora=None)
    assert json.loads((tmp_path / "merged" / "config.json").read_text())["as_trained"]
    assert not (tmp_path / "merged" / BASE_FILE).exists()
    expected = merge(params["llm"], params["lora"], config.lora)
    for a, b in zip(jax.tree.leaves(merged["llm"]), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6)
    _assert_same(merged["vision"], params["vision"])


def test_merged_model_has_the_conversation_of_its_adapter(tmp_path):
    config, params = golden.model(golden.LORA)
    config = dataclasses.replace(config, conversation="chatml")
    save_model(tmp_path / "adapter", config, params, "peft")
    for format in ("orbax", "huggingface"):
        _done(LLAMA, tmp_path / format, format, f"--merge_adapter={tmp_path / 'adapter'}")
        assert read_config(tmp_path / format) == dataclasses.replace(config, lora=None)


def test_adapter_alone_from_form_to_form(own, tmp_path):
    config, params = golden.model(golden.LORA)
    base = Base(str(LLAMA), base_hash(params["llm"]))
    assert read_base(own) == base
    adapted, _ = open_any_adapter(own, golden.model(golden.LLAMA)[0])
    assert adapted == config
    _assert_same(read_subtrees(own, ["lora"], "float32"), {"lora": params["lora"]})
    size, _, _ = _done(own, tmp_path / "peft", "peft")
    assert size == _size(params["lora"])
    assert read_base(tmp_path / "peft") == base
    written, original = (
        load_file(tmp_path / "peft" / WEIGHTS_FILE),
        load_file(ADAPTER / WEIGHTS_FILE),
    )
    _assert_same(written, original)
    values = json.loads((tmp_path / "peft" / ADAPTER_FILE).read_text())
    assert values["base_model_name_or_path"] == str(LLAMA)


def test_adapter_of_another_base_is_refused_unless_any_base_may_do(own, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(LLAMA, other)
    tensors = load_file(LLAMA / WEIGHTS)
    tensors["language_model.model.norm.weight"] += 1
    save_file(tensors, other / WEIGHTS)
    target = tmp_path / "target"
    for arguments in (
        (other, target, "huggingface", f"--merge_adapter={own}"),
        (_peft(own, tmp_path), target, "orbax", f"--base={other}"),
    ):
        message = _refused(*arguments)
        assert f"was trained on {LLAMA} (" in message
        assert f"not on {other} (" in message
        assert "--any_base" in message
        _done(*arguments, "--any_base")
        shutil.rmtree(target)


def _peft(own, path):
    """The recorded adapter as PEFT has it, with a record of its base."""
    target = path / "peft"
    shutil.copytree(ADAPTER, target)
    shutil.copyfile(own / BASE_FILE, target / BASE_FILE)
    return target


def test_parts_of_a_model(tmp_path):
    text = json.loads((LLAMA / "config.json").read_text())["text_config"]
    weights = {
        name.removeprefix("language_model."): value
        for name, value in load_file(LLAMA / WEIGHTS).items()
        if name.startswith("language_model.")
    }
    source = tmp_path / "llama"
    source.mkdir()
    (source / "config.json").write_text(json.dumps({**text, "vocab_size": 100}))
    save_file(weights, source / WEIGHTS)
    _, _, said = _done(source, tmp_path / "own", "orbax")
    note = "config.json says vocab_size 100, the embedding has 128 rows; using 128"
    assert said == f"note: {source}: {note}\n"
    llm = golden.model(golden.LLAMA)[1]["llm"]
    _assert_same(read_subtrees(tmp_path / "own", ["llm"], "float32"), {"llm": llm})
    _done(source, tmp_path / "again", "huggingface")
    again = load_file(tmp_path / "again" / WEIGHTS)
    assert again.keys() == {name for name in weights if "inv_freq" not in name}
    for name, value in again.items():
        np.testing.assert_array_equal(value, weights[name])
    llm_alone = {"lora": None, "vision": None, "connector": None}
    own = json.loads((tmp_path / "own" / "config.json").read_text())["model"]
    assert {name: own[name] for name in llm_alone} == llm_alone


def test_infinities_are_warned_of(tmp_path):
    source = tmp_path / "source"
    shutil.copytree(LLAMA, source)
    tensors = {name: x.astype(np.float16) for name, x in load_file(LLAMA / WEIGHTS).items()}
    tensors["language_model.lm_head.weight"][:3, 0] = np.inf
    save_file(tensors, source / WEIGHTS)
    _, dtype, said = _done(source, tmp_path / "target", "huggingface")
    assert dtype == "float16"
    (line,) = said.splitlines()
    assert line.startswith(f"warning: {source}: 3 elements of 1 float16 tensors are not finite")
    assert json.loads((tmp_path / "target" / "config.json").read_text())["torch_dtype"] == "float16"


@pytest.fixture(scope="module")
def damaged(own, tmp_path_factory):
    """A place with models that nothing can be made of."""
    path = tmp_path_factory.mktemp("damaged")
    shutil.copytree(LLAMA, path / "torn")
    (path / "torn" / WEIGHTS).write_bytes((LLAMA / WEIGHTS).read_bytes()[:-100])
    model, params = golden.model(golden.LLAMA)
    save_model(path / "clip", model, {"vision": params["vision"]}, "orbax")
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 812\n"
    shutil.copytree(LLAMA, path / "lfs")
    (path / "lfs" / "config.json").write_text(pointer)
    shutil.copytree(LLAMA, path / "big")
    (path / "big" / WEIGHTS).write_text(pointer)
    (path / "gpt").mkdir()
    (path / "gpt" / "config.json").write_text('{"model_type": "gpt2"}')
    shutil.copytree(own, path / "cut")
    (path / "cut" / "params" / "_METADATA").write_text("{")
    # What only shows while the target is being written.
    shutil.copytree(own, path / "late")
    for file in (path / "late" / "params").glob("ocdbt.process_*/d/*"):
        if file.stat().st_size > 1000:  # a factor's numbers
            file.write_bytes(file.read_bytes()[:50])
    return path


@pytest.mark.parametrize(
    ("words", "source", "format", "flags"),
    [
        ("no such directory", "nowhere", "orbax", ""),
        ("is an adapter: name its model with --base=DIR", ADAPTER, "peft", ""),
        ("no vision and no connector and no llm; it has lora", "own", "huggingface", ""),
        ("the model has no lora; it has", LLAMA, "peft", ""),
        (f"{LLAMA}: the model has no lora", LLAMA, "peft", ""),
        (f"{LLAMA}: the model has no lora; it has", LLAMA, "orbax", "--merge"),
        ("is an adapter: merge it with --source=MODEL", ADAPTER, "orbax", "--merge"),
        ("format=peft writes an adapter only: use huggingface or orbax", LLAMA, "peft", ""),
        ("clip: the model has no connector and no llm; it has vi", "clip", "huggingface", ""),
        ("use it as config.init.vision of a training run", "clip", "huggingface", ""),
        ("config.json: is a Git LFS pointer, not the file itself: run `git", "lfs", "orbax", ""),
        ("model.safetensors: not a readable safetensors file (is a Git LFS", "big", "orbax", ""),
        ("own: the model has no vision and no connector and no llm", "own", "huggingface", ""),
        ("no adapter_config.json", LLAMA, "orbax", "--merge_adapter=/nowhere"),
        ("names no projection of this", BLOOM, "orbax", f"--merge_adapter={ADAPTER}"),
        ("no language model to merge", "own", "orbax", f"--merge_adapter={ADAPTER}"),
        ("not a readable safetensors file", "torn", "orbax", ""),
        ("model_type is 'gpt2'; expected one of mplug-owl, ", "gpt", "orbax", ""),
        ("damaged, copy the directory again", "cut", "orbax", ""),
        ("damaged, copy the directory again", "late", "orbax", ""),
        ("damaged, copy the directory again", "late", "peft", ""),
    ],
)
def test_mistake_is_one_line(words, source, format, flags, own, damaged, tmp_path):
    source = own if source == "own" else damaged / source  # a path that is whole stays as it is
    assert words in _refused(source, tmp_path / "target", format, *flags.split())


def test_target_that_exists_is_left_alone(tmp_path):
    (tmp_path / "note.txt").write_text("mine")
    done = _convert(LLAMA, tmp_path, "orbax")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (f"error: {tmp_path} exists already; name another place or remove it\n")
    assert [path.name for path in tmp_path.iterdir()] == ["note.txt"]


def test_wrong_flags_are_told(tmp_path):
    done = _convert(LLAMA, tmp_path / "x", "gguf")
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert "--format" in done.stderr


def test_two_at_once_on_one_target(tmp_path):
    """One is written, the other ends with one line; nothing else stays."""
    target = tmp_path / "target"
    runs = [
        forked.Forked(
            [
                *("-m", "owl_jax.convert", f"--source={LLAMA}", f"--target={target}"),
                "--format=orbax",
            ]
        )
        for _ in range(2)
    ]
    told = [run.communicate(timeout=240) for run in runs]
    assert sorted(run.returncode for run in runs) == [0, 1], told
    (line,) = told[[run.returncode for run in runs].index(1)][1].splitlines()
    assert re.search("another run has created|exists already", line)
    _assert_same(load_model(target, "float32")[1], golden.model(golden.LLAMA)[1])
    assert list(tmp_path.iterdir()) == [target]


def test_what_was_written_is_verified(own, tmp_path):
    """A flipped bit is named, alone and before a conversion; the target has hashes of its own."""
    copy = tmp_path / "copy"
    shutil.copytree(own, copy)
    verify = "-m", "owl_jax.convert", f"--source={copy}", "--verify"
    done = forked.run(*verify)
    assert done.returncode == 0, done.stderr
    count = sum(path.is_file() for path in copy.rglob("*")) - 1
    assert re.fullmatch(
        rf"{copy}: OK, as listed: {count} files, 0\.00 GB, \d+\.\d s\n", done.stdout
    )
    assert done.stderr == ""
    target = tmp_path / "target"
    said = _convert(copy, target, "peft", "--verify")
    assert said.returncode == 0, said.stderr
    assert SUMS_FILE not in (target / SUMS_FILE).read_text()
    assert verify_directory(target).files == 3
    largest = max(copy.rglob("d/*"), key=lambda path: path.stat().st_size)
    content = bytearray(largest.read_bytes())
    content[len(content) // 2] ^= 1
    largest.write_bytes(content)
    shutil.rmtree(target)
    for done in (
        forked.run(*verify),
        _convert(copy, target, "peft", "--verify"),
    ):
        assert (done.returncode, done.stdout) == (1, "")
        (line,) = done.stderr.splitlines()
        name = largest.relative_to(copy)
        assert line.startswith(
            f"error: {copy}: does not match its SHA256SUMS (1): {name} (differs);"
        )
    assert not target.exists()


@pytest.mark.parametrize(
    ("flags", "status", "words"),
    [
        ([f"--source={LLAMA}", "--verify"], 1, "no SHA256SUMS to compare with"),
        ([f"--source={LLAMA}"], 2, "give both --target and --format"),
        ([f"--source={LLAMA}", "--target=x"], 2, "give both --target and --format"),
        ([f"--source={LLAMA}", "--verify", "--format=peft"], 2, "--verify works without them"),
        ([f"--source={LLAMA}", "--target=", "--format=peft"], 1, "--target= is empty"),
        (["--source=", "--verify"], 1, "--source= is empty"),
        ([f"--source={'x' * 300}", "--target=x", "--format=peft"], 1, "no such directory"),
        ([f"--source={LLAMA}", f"--target={'x' * 300}", "--format=peft"], 1, "name too long"),
    ],
)
def test_flags_that_do_not_go_together(flags, status, words, tmp_path):
    done = forked.run("-m", "owl_jax.convert", *flags, directory=tmp_path)
    assert done.returncode == status, done.stderr
    (line,) = done.stderr.splitlines()
    assert words in line
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", [WEIGHTS, "tokenizer.json"])
def test_a_fifo_is_not_waited_for(name, tmp_path):
    source = tmp_path / "source"
    shutil.copytree(LLAMA, source)
    (source / name).unlink(missing_ok=True)
    os.mkfifo(source / name)
    assert "FIFO" in _refused(source, tmp_path / "target", "orbax")
