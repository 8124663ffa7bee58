import json
import os
import shutil

import directories
import forked
import golden
import jax
import numpy as np
import pytest
import tiny
from directories import assert_same_bits, assert_same_tree
from read_whole import load_model, read_adapter, read_subtrees

from owl_jax.checkpoint.checksums import SUMS_FILE, verify
from owl_jax.checkpoint.lazy_arrays import read
from owl_jax.checkpoint.model_directory import (
    COMPANIONS,
    open_any,
    open_any_adapter,
    open_model,
    read_config,
    save_model,
)
from owl_jax.checkpoint.orbax_format import write_params
from owl_jax.errors import UserError
from owl_jax.models.families.mplug_owl import MPLUG_OWL
from owl_jax.models.weight_names import BUFFERS


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return tiny.write_model(tmp_path_factory.mktemp("models") / "tiny")


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


@pytest.mark.parametrize("case", [golden.LLAMA, golden.BLOOM, golden.BLOOM_6, golden.VIDEO])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_released_model_comes_back_as_it_was(case, dtype, tmp_path):
    """Through our own format and back, never in memory as a whole."""
    values = directories.config(golden.GOLDENS / case)
    tensors = {
        name: value.astype(dtype)
        for name, value in directories.tensors(golden.GOLDENS / case).items()
    }
    source = directories.write(tmp_path / "source", {**values, "torch_dtype": dtype}, tensors)
    for name in (*COMPANIONS, "training_args.bin"):
        (source / name).write_text(f'{{"content": "of {name}"}}')
    opened = open_model(source)
    written = []
    save_model(
        tmp_path / "own", opened.config, opened.params, "orbax", source, progress=written.append
    )
    assert sum(written) == sum(x.size * x.dtype.itemsize for x in _leaves(opened.params))
    own = open_model(tmp_path / "own")
    assert own.config == opened.config
    save_model(tmp_path / "back", own.config, own.params, "huggingface", tmp_path / "own")

    left_out = {name for name in tensors if BUFFERS.fullmatch(name)}
    left_out |= MPLUG_OWL.tied(opened.config).keys()
    kept = {name: value for name, value in tensors.items() if name not in left_out}
    assert_same_bits(directories.tensors(tmp_path / "back"), kept)
    back = directories.config(tmp_path / "back")
    assert back["torch_dtype"] == dtype
    for section in ("text_config", "vision_config", "visual_abstractor_config"):
        # transformers reads from those what the original's config classes know besides ours.
        assert values[section].keys() <= back[section].keys()
        assert len(values[section].keys() - {"model_type"}) > 7
    assert values.keys() <= back.keys()
    for directory in ("own", "back"):
        for name in COMPANIONS:
            assert (tmp_path / directory / name).read_text() == f'{{"content": "of {name}"}}'
        assert not (tmp_path / directory / "training_args.bin").exists()


def _leaves(tree):
    return [read(leaf) for leaf in jax.tree.leaves(tree)]


def test_adapter_is_kept_apart_merged_or_alone(tmp_path):
    config, params = golden.model(golden.LORA)
    plain, _ = golden.model(golden.LLAMA)
    for format in ("orbax", "huggingface", "peft"):
        save_model(tmp_path / format, config, params, format)
    loaded_config, loaded = load_model(tmp_path / "orbax", "float32")
    assert loaded_config == config
    assert_same_tree(loaded, params)
    assert read_config(tmp_path / "huggingface") == plain
    merged = read_subtrees(tmp_path / "huggingface", ["llm"], "float32")["llm"]["layers"]
    for name in ("q_proj", "v_proj"):
        a, b = (params["lora"]["layers"][name][factor] for factor in "ab")
        update = np.einsum("lir,lrhk->lihk", a, b) * config.lora.scale
        expected = params["llm"]["layers"][name]["kernel"] + update
        np.testing.assert_allclose(merged[name]["kernel"], expected, rtol=1e-5, atol=1e-6)
    assert_same_tree(read_adapter(tmp_path / "peft", plain, np.float32)[1], params["lora"])
    # An adapter is taken from a directory of ours too, but only for its own model.
    adapted, factors = open_any_adapter(tmp_path / "orbax", plain)
    assert adapted == config
    assert_same_tree(jax.tree.map(read, factors), params["lora"])
    with pytest.raises(UserError, match=r"adapter of another model; its config\.json differs"):
        open_any_adapter(tmp_path / "orbax", golden.model(golden.BLOOM)[0])
    for model, parts in ((tmp_path / "huggingface", plain), (golden.GOLDENS / golden.BLOOM, plain)):
        with pytest.raises(UserError, match=r"is no adapter: it has .*llm.* but no lora; give the"):
            open_any_adapter(model, parts)
    with pytest.raises(UserError, match="the model has no lora"):
        save_model(tmp_path / "x", plain, golden.model(golden.LLAMA)[1], "peft")
    with pytest.raises(UserError, match="format 'gguf'; expected one of huggingface, orbax, peft"):
        save_model(tmp_path / "x", config, params, "gguf")
    assert not (tmp_path / "x").exists()


def test_dtype_is_chosen_when_reading(directory):
    _, exact = load_model(directory, "float32")
    _, params = load_model(directory, "bfloat16")
    assert_same_tree(params, jax.tree.map(lambda x: x.astype("bfloat16"), exact))


def test_tokenizer_files_come_along(directory, tmp_path):
    config, params = load_model(directory, "float32")
    for format in ("huggingface", "orbax"):
        save_model(tmp_path / format, config, params, format, companions=directory)
        copied = (tmp_path / format / "tokenizer.model").read_bytes()
        assert copied == (directory / "tokenizer.model").read_bytes()


@pytest.mark.parametrize("what", ["fifo", "folder", "link to nothing", "link to a device"])
def test_a_tokenizer_file_that_cannot_be_copied_is_told(what, tmp_path):
    config, params = golden.model(golden.LLAMA)
    (tmp_path / "source").mkdir()
    path = tmp_path / "source" / "tokenizer_config.json"
    if what == "fifo":
        os.mkfifo(path)
    elif what == "folder":
        path.mkdir()
    else:
        path.symlink_to("/dev/zero" if what == "link to a device" else "nothing")
    for format in ("huggingface", "orbax"):
        with pytest.raises(UserError, match=r"tokenizer_config\.json: cannot be copied \("):
            save_model(tmp_path / "target", config, params, format, tmp_path / "source")
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


@pytest.mark.parametrize("format", ["huggingface", "orbax", "peft"])
def test_every_file_has_its_hash(format, tmp_path):
    config, params = golden.model(golden.LORA)
    source = tmp_path / "source"
    source.mkdir()
    for name in (*COMPANIONS, SUMS_FILE):
        (source / name).write_text(f'{{"content": "of {name}"}}')
    save_model(tmp_path / "target", config, params, format, source)
    files = {str(path.relative_to(tmp_path / "target")) for path in _files(tmp_path / "target")}
    listed = (tmp_path / "target" / SUMS_FILE).read_text()
    assert {line[66:] for line in listed.splitlines()} == files - {SUMS_FILE}
    assert verify(tmp_path / "target").files == len(files) - 1


def _files(directory):
    return [path for path in directory.rglob("*") if path.is_file()]


def test_some_branches_alone(directory, tmp_path):
    config, params = load_model(directory, "float32")
    save_model(tmp_path / "llm", config, {"llm": params["llm"]}, "orbax")
    assert_same_tree(read_subtrees(tmp_path / "llm", ["llm"], "float32"), {"llm": params["llm"]})
    with pytest.raises(UserError, match="no vision and no connector; it has llm"):
        load_model(tmp_path / "llm", "float32")
    with pytest.raises(UserError, match="no connector"):
        read_subtrees(tmp_path / "llm", ["connector"], "float32")
    with pytest.raises(UserError, match="no vision and no connector"):
        save_model(tmp_path / "x", config, {"llm": params["llm"]}, "huggingface")
    some = read_subtrees(golden.GOLDENS / golden.LLAMA, ["vision"], "float32")
    assert some.keys() == {"vision"}
    with pytest.raises(UserError, match="no lora"):
        read_subtrees(golden.GOLDENS / golden.LLAMA, ["lora"], "float32")


def test_existing_directories_are_not_touched(directory, tmp_path):
    config, params = load_model(directory, "float32")
    (tmp_path / "note.txt").write_text("mine")
    with pytest.raises(UserError, match="exists already"):
        save_model(tmp_path, config, params, "orbax")
    assert [path.name for path in tmp_path.iterdir()] == ["note.txt"]
    (tmp_path / "empty").mkdir()
    save_model(tmp_path / "empty", config, params, "orbax")
    assert read_config(tmp_path / "empty") == config


@pytest.mark.parametrize("kind", ["language", "clip"])
def test_config_of_a_directory_of_one_part(kind, tmp_path):
    if kind == "language":
        directories.write_language(golden.GOLDENS / golden.LLAMA, tmp_path / kind)
    else:
        directories.write_clip(tmp_path / kind)
    config = read_config(tmp_path / kind)
    assert config == open_any(tmp_path / kind).config
    assert config.text_only == (kind == "language")


def change_config(directory, **changes):
    path = directory / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_damaged_directories(directory, tmp_path):
    def copy(name):
        return shutil.copytree(directory, tmp_path / name)

    with pytest.raises(UserError, match=r"no config\.json"):
        load_model(tmp_path, "float32")
    newer = copy("newer")
    change_config(newer, version=3)
    with pytest.raises(UserError, match="version 3; this owl_jax reads versions 1 and 2"):
        load_model(newer, "float32")
    unknown = copy("unknown")
    model = tiny.CONFIG.to_dict()
    change_config(unknown, model=model | {"vision": {"eyes": 2}})
    with pytest.raises(UserError, match="eyes"):
        load_model(unknown, "float32")
    other = copy("other")
    change_config(other, model=model | {"llm": model["llm"] | {"hidden_size": 32}})
    with pytest.raises(UserError, match=r"connector/end: found \(16,\), expected \(32,\).* more"):
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
    torn = copy("torn")
    for path in (torn / "params").rglob("d/*"):
        path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(UserError, match="damaged, copy the directory again"):
        load_model(torn, "float32")
    # The damage is found while another directory is written: nothing of that stays.
    config, params = load_model(directory, "float32")
    broken = {**params, "llm": {**params["llm"], "norm": {"scale": _Damaged(params)}}}
    for format in ("huggingface", "orbax"):
        with pytest.raises(UserError, match="damaged, copy it"):
            save_model(tmp_path / "new" / format, config, broken, format)
    assert list((tmp_path / "new").iterdir()) == []


class _Damaged:
    """A stored array whose file turns out to be damaged when it is read."""

    def __init__(self, params):
        self.shape, self.dtype = params["llm"]["norm"]["scale"].shape, np.dtype(np.float32)

    def __getitem__(self, part):
        raise UserError("damaged, copy it")


@pytest.mark.parametrize("format", ["huggingface", "orbax"])
def test_full_disk_leaves_nothing_behind(format, directory, tmp_path):
    """Files of more than 20 kB cannot be written, as on a full disk."""
    code = (
        "import sys; from pathlib import Path\n"
        "from owl_jax.checkpoint.model_directory import open_model, save_model\n"
        "from owl_jax.errors import UserError\n"
        "import resource\n"
        f"model = open_model(Path({str(directory)!r}))\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))\n"
        "try:\n"
        f"    target = Path({str(tmp_path / 'model')!r})\n"
        f"    save_model(target, model.config, model.params, {format!r})\n"
        "except UserError as error:\n"
        "    print(error)\n"
    )
    done = forked.run("-c", code)
    assert done.returncode == 0
    assert "cannot be written: File too large" in done.stdout
    assert done.stderr == ""
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"version": True}, "version is True; expected int"),
        ({"version": [1]}, "version is .*; expected int"),
        ({"version": 3}, "version 3; this owl_jax reads versions 1 and 2"),
        ({"as_trained": "no"}, "as_trained is 'no'; expected bool"),
        ({"model": [1]}, "model is .*; expected a JSON object"),
        ({"model": {}}, "no value for 'vision'"),
    ],
)
def test_own_config_that_makes_no_sense(changes, message, tmp_path):
    directory = tiny.write_model(tmp_path / "model")
    values = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps({**values, **changes}))
    with pytest.raises(UserError, match=message):
        open_model(directory)


def test_own_config_of_an_adapter_for_nothing(tmp_path):
    directory = tiny.write_model(tmp_path / "model")
    values = json.loads((directory / "config.json").read_text())
    values["model"]["lora"] = {"rank": 4, "targets": ["no_proj"]}
    (directory / "config.json").write_text(json.dumps(values))
    with pytest.raises(UserError, match=r"lora\.targets is \['no_proj'\]; expected some of q_proj"):
        open_model(directory)
    values["model"]["lora"] = None
    values["model"]["llm"]["eos_token_id"] = 340
    (directory / "config.json").write_text(json.dumps(values))
    with pytest.raises(UserError, match="eos_token_id is 340; expected an id below 340"):
        open_model(directory)


def test_a_directory_of_version_1_is_read(directory, tmp_path):
    """The first release called the connector `abstractor`, in config.json and in params/."""
    config, params = load_model(directory, "float32")
    former = {{"connector": "abstractor"}.get(name, name): tree for name, tree in params.items()}
    former_dir = tmp_path / "version_1"
    former_dir.mkdir()
    write_params(former_dir / "params", former)
    model = config.to_dict()
    model["abstractor"] = model.pop("connector")
    for part in ("vision", "abstractor"):
        del model[part]["architecture"]
    values = {"format": "owl_jax", "version": 1, "as_trained": True, "model": model}
    (former_dir / "config.json").write_text(json.dumps(values))
    read_config, read_params = load_model(former_dir, "float32")
    assert read_config == config
    directories.assert_same_tree(read_params, params)


def test_a_strange_model_type_beside_the_weights_is_no_source(directory, tmp_path):
    """What is saved keeps config.json of a family's model only."""
    config, params = load_model(directory, "float32")
    companions = tmp_path / "companions"
    companions.mkdir()
    for kind in ([], {}, None, 3, "gpt"):
        (companions / "config.json").write_text(json.dumps({"model_type": kind}))
        target = tmp_path / f"saved {kind}"
        save_model(target, config, params, "orbax", companions)
        assert not (target / "source_config.json").exists()
