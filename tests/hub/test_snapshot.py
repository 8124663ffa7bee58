"""Downloads from a hub on this machine, in processes of their own."""

import hashlib
import json

import forked
import hub_python
import pytest
from hub_server import TOKEN, Request

WEIGHTS = bytes(range(256)) * 800
FILES = {
    "config.json": b'{"model_type": "llama"}',
    "tokenizer.json": b"{}",
    "tokenizer_config.json": b'{"add_bos_token": true}',
    "generation_config.json": b'{"eos_token_id": 2}',
    "preprocessor_config.json": b'{"do_resize": true}',
    "model.safetensors": WEIGHTS,
    "pytorch_model.bin": b"another format",
    "tf_model.h5": b"another format",
    "onnx/model.onnx": b"another format",
    "README.md": b"# A card",
    ".gitattributes": b"",
}
READ = " ".join(sorted(name for name in FILES if name.endswith(("json", "safetensors"))))


@pytest.fixture
def home(tmp_path):
    return tmp_path


def test_only_what_is_read_is_downloaded(hub, home):
    hub.add("owls/whole", FILES)
    code = """
        attempt("owls/whole", get=tokenizer_directory)
        attempt("owls/whole")
        attempt("owls/whole")
    """
    words = READ.replace("model.safetensors ", "")
    assert hub_python.run(hub, home, code) == [words, READ, READ]
    assert len(hub.downloads()) == len(READ.split()) == len(set(hub.downloads()))
    # The weights came from the CDN, which refuses requests that have a token.
    assert [path for path in hub.downloads() if path.startswith("/cdn/")]


def test_the_files_of_other_forms(hub, home):
    index = {"weight_map": {"a": "a.safetensors", "b": "b.safetensors"}}
    tensors = ("a.safetensors", "b.safetensors", "c.safetensors", "model.safetensors")
    hub.add(
        "owls/shards",
        {
            **dict.fromkeys(tensors, b"tensors"),
            "config.json": b"{}",
            "model.safetensors.index.json": json.dumps(index).encode(),
            "pytorch_model.bin.index.json": b"{}",
        },
    )
    adapter = ("adapter_model.safetensors", "adapter_model.bin", "optimizer.pt", "README.md")
    hub.add("owls/adapter", {**dict.fromkeys(adapter, b"state"), "adapter_config.json": b"{}"})
    own = dict.fromkeys(("params/manifest.ocdbt", "params/d/0", "notes.txt", "more.txt"), b"x")
    sums = f"{'0' * 64}  notes.txt\n".encode()
    hub.add("owls/own", {**own, "config.json": b'{"format": "owl_jax"}', "SHA256SUMS": sums})
    hub.add("owls/torch", {"config.json": b"{}", "pytorch_model.bin": b"tensors"})
    before = len(hub.downloads())
    code = """
        attempt("owls/shards")
        attempt("hf://owls/adapter")
        attempt("owls/own")
        attempt("owls/own", whole=True)
        sys.modules["torch"] = None
        attempt("owls/torch")
    """
    *others, torch = hub_python.run(hub, home, code)
    assert others == [
        "a.safetensors b.safetensors config.json model.safetensors.index.json",
        "adapter_config.json adapter_model.safetensors",
        "config.json params/d/0 params/manifest.ocdbt",
        "SHA256SUMS config.json notes.txt params/d/0 params/manifest.ocdbt",
    ]
    assert torch.endswith("needed to read it: pip install 'owl_jax[convert]'")
    assert not [path for path in hub.downloads()[before:] if path.endswith("pytorch_model.bin")]


def test_a_vision_tower_of_the_hub(hub, home):
    """LLaVA's own form names the tower, which may be a directory or one of the hub."""
    hub.add("owls/tower", {"config.json": b"{}", "model.safetensors": b"tower", "a.txt": b"a"})
    for name in ("tower", "none"):
        config = {"model_type": "llava", "mm_vision_tower": f"owls/{name}"}
        directory = home / "models" / f"llava_with_{name}"
        directory.mkdir(parents=True)
        (directory / "config.json").write_text(json.dumps(config))
    code = """
        from pathlib import Path
        from owl_jax.checkpoint.huggingface import tower_directory
        attempt(Path("models/llava_with_tower"), get=tower_directory)
        attempt(Path("models/llava_with_none"), get=tower_directory)
    """
    found, missing = hub_python.run(hub, home, code)
    assert found == "config.json model.safetensors"
    assert "mm_vision_tower is 'owls/none'; no such directory, and there is no" in missing
    assert "put the vision tower there (owls/none: no such file or directory here, and" in missing


def test_a_revision_is_a_branch_a_tag_or_a_commit(hub, home):
    first = hub.add("owls/versions", {"config.json": b"{}", "model.safetensors": b"1"})
    hub.repositories["models", "owls/versions"].refs["v1"] = first
    hub.add("owls/versions", {"config.json": b"{}", "model.safetensors": b"2"})
    code = f"""
        read = lambda directory: (directory / "model.safetensors").read_text()
        for name in ("", "@v1", "@main", "@{first}"):
            attempt("owls/versions" + name, show=read)
    """
    assert hub_python.run(hub, home, code) == ["2", "1", "2", "1"]
    # Without the network, what they meant last.
    hub.add("owls/versions", {"config.json": b"{}", "model.safetensors": b"3"})
    count = len(hub.requests)
    assert hub_python.run(hub, home, code, HF_HUB_OFFLINE="1") == ["2", "1", "2", "1"]
    # Nor does a commit that is there need it.
    assert hub_python.run(hub, home, f'attempt("owls/versions@{first}")') == [
        "config.json model.safetensors"
    ]
    assert len(hub.requests) == count


def test_what_is_not_in_the_cache_cannot_be_had_offline(hub, home):
    hub.add("owls/partly", FILES)
    hub_python.run(hub, home, 'attempt("owls/partly", get=tokenizer_directory)')
    code = """
        attempt("owls/partly")
        attempt("owls/never")
    """
    for line in hub_python.run(hub, home, code, HF_HUB_OFFLINE="1"):
        assert f"HF_HUB_OFFLINE is set, but {home / 'hub'} does not have all" in line


def test_tokens(hub, home):
    hub.add("owls/secret", FILES, access="private")
    hub.add("owls/asked", FILES, access="gated")
    code = f"""
        attempt("owls/secret")
        os.environ["HF_TOKEN"] = "hf_wrong"
        attempt("owls/secret")
        os.environ["HF_TOKEN"] = "{TOKEN}"
        attempt("owls/asked")
        attempt("owls/secret")
    """
    none, wrong, gated, right = hub_python.run(hub, home, code)
    log_in = "set HF_TOKEN, or log in with `hf auth login`"
    assert f"shows no such model (HTTP 401); check the name or, if it is private, {log_in}" in none
    assert "answers HTTP 401 ('Invalid credentials in Authorization header'); check" in wrong
    assert f"grant access on request: ask at {hub.url}/owls/asked, then {log_in}" in gated
    assert right == READ


def test_names_that_the_hub_does_not_have(hub, home):
    hub.add("owls/known", FILES)
    code = """
        attempt("owls/unknown")
        attempt("owls/known@v9")
        attempt("hf://owls/known/sub")
        attempt("./owls/known", show=str)
    """
    unknown, revision, folder, path = hub_python.run(hub, home, code, HF_TOKEN=TOKEN)
    nowhere = "owls/unknown: no such file or directory here, and the hub at"
    assert unknown.startswith(f"{nowhere} {hub.url} shows no such model (HTTP 404); check the name")
    assert "owls/known has no revision 'v9'; expected a branch, a tag or a commit of" in revision
    assert folder.endswith("no files there; the repository has the folders onnx")
    assert path == "owls/known"


def test_a_hub_that_is_not_there(hub, home):
    [line] = hub_python.run(hub, home, 'attempt("a/b")', HF_ENDPOINT="http://127.0.0.1:9")
    assert line.startswith(
        "a/b: no such file or directory here, and the hub at http://127.0.0.1:9 cannot be reached ("
    )


def test_a_transfer_that_breaks_off_goes_on(hub, home):
    """The library keeps pieces of 10 MiB."""
    large = b"owls" * 6_000_000
    hub.add("owls/cut", {"config.json": b"{}", "model.safetensors": large})
    hub.faults["model.safetensors"] = "cut"
    environment = hub.environment(home)
    program = hub_python.arguments('attempt("owls/cut")')
    result = forked.run(*program, environment=environment, directory=home)
    assert result.stdout == "config.json model.safetensors\n" and result.returncode == 0
    first, *rest = result.stderr.splitlines()
    assert first.startswith("note: owls/cut@") and ": downloading 1 file, 24.0 MB, into" in first
    assert "Trying to resume download..." in rest
    path = f"/cdn/{hashlib.sha256(large).hexdigest()}/model.safetensors"
    asked = [one for one in hub.requests if one.path == path]
    assert asked == [Request("GET", path, ""), Request("GET", path, f"bytes={10 << 20}-")]


def test_a_broken_file_is_not_kept(hub, home):
    for fault in ("corrupt", "short"):
        hub.add(f"owls/{fault}", {**FILES, "model.safetensors": WEIGHTS + fault.encode()})
    code = """
        attempt("owls/{fault}")
        left = [name for _, _, names in os.walk("hub/models--owls--{fault}") for name in names]
        print([name for name in left if name.endswith(("safetensors", "incomplete"))])
        weights = lambda directory: (directory / "model.safetensors").stat().st_size
        attempt("owls/{fault}", show=weights)
    """
    size = len(WEIGHTS)
    for fault, expected in (
        ("corrupt", "model.safetensors is broken: its size or hash is not what the hub lists; run"),
        ("short", f"file should be of size {size + 5} but has size {size + 4}"),
    ):
        hub.faults["model.safetensors"] = fault
        broken, left, whole = hub_python.run(hub, home, code.replace("{fault}", fault))
        assert expected in broken
        assert left == "[]" and whole == str(size + len(fault))


def test_a_file_that_a_killed_process_has_not_compared(hub, home):
    hub.add("owls/killed", {**FILES, "model.safetensors": WEIGHTS + b"killed"})
    hub.faults["model.safetensors"] = "corrupt"
    killed = """
        from owl_jax.hub import snapshot
        snapshot._is_intact = lambda *_: os._exit(9)
        attempt("owls/killed")
    """
    hub_python.run(hub, home, 'attempt("owls/killed", get=tokenizer_directory)')
    program = hub_python.arguments(killed)
    ended = forked.run(*program, environment=hub.environment(home), directory=home)
    assert ended.returncode == 9 and list(home.rglob("model.safetensors"))
    broken, whole = hub_python.run(hub, home, 'attempt("owls/killed")\n' * 2)
    assert "the download of model.safetensors is broken" in broken and whole == READ


def test_a_full_disk(hub, home):
    hub.add("owls/large", FILES)
    code = """
        import resource, shutil
        usage = shutil.disk_usage
        shutil.disk_usage = lambda path: usage(path)._replace(free=0)
        attempt("owls/large")
        shutil.disk_usage = usage
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
        attempt("owls/large")
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
        attempt("owls/large")
    """
    no_room, full, freed = hub_python.run(hub, home, code)
    # Another commit with the same contents needs no room.
    hub.add("owls/large", {**FILES, "README.md": b"# Another card"})
    same = """
        import shutil
        usage = shutil.disk_usage
        shutil.disk_usage = lambda path: usage(path)._replace(free=0)
        attempt("owls/large")
    """
    count = len(hub.downloads())
    assert hub_python.run(hub, home, same) == [READ] and len(hub.downloads()) == count
    assert "GB to download, but" in no_room and "has 0.00 GB of free space; free some" in no_room
    assert "File too large; free some space, or set HF_HOME to a folder on another disk" in full
    assert freed == READ


def test_processes_download_once(hub, home):
    hub.add("owls/shared", {**FILES, "model.safetensors": WEIGHTS[::-1]})
    program = hub_python.arguments('attempt("owls/shared")')
    before = len(hub.downloads())
    environment = hub.environment(home)
    processes = [forked.Forked(program, environment, directory=home) for _ in range(3)]
    assert [process.communicate(60) for process in processes] == [(f"{READ}\n", "")] * 3
    assert len(hub.downloads()) - before == len(READ.split())


def test_a_local_directory_wins_and_this_is_told(hub, home):
    (home / "owls" / "local").mkdir(parents=True)
    (home / "owls" / "local" / "mine.json").touch()
    code = """
        from owl_jax.hub.snapshot import tell_if_ambiguous
        tell_if_ambiguous("owls/local", print)
        attempt("owls/local")
        print("huggingface_hub" in sys.modules)
    """
    assert hub_python.run(hub, home, code) == [
        "owls/local is a path here; the hub's would be hf://owls/local",
        "mine.json",
        "False",
    ]
