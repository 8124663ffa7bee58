"""convert --push to a hub on this machine, and the model that comes back from there."""

import forked
import pytest
import tiny
from hub_server import TOKEN
from huggingface_hub import ModelCard

from owl_jax.checkpoint.checksums import verify
from owl_jax.errors import UserError
from owl_jax.hub.push import open_repository


def convert(hub, home, *flags, **environment):
    program = ("-m", "owl_jax.convert", *flags)
    variables = hub.environment(home, **environment)
    return forked.run(*program, environment=variables, directory=home)


def test_a_model_goes_to_the_hub_and_comes_back(hub, tmp_path):
    source = tiny.write_model(tmp_path / "model")
    hub.add("owls/mine", {"README.md": b"", "model.safetensors.index.json": b"{}", "a.txt": b"a"})
    flags = (f"--source={source}", "--format=huggingface", "--target=first", "--push=owls/mine")
    refused = convert(hub, tmp_path, *flags)
    assert (refused.returncode, refused.stderr) == (
        1,
        "error: --push=owls/mine: you may not write there (HTTP 401); set HF_TOKEN, or log in with "
        "`hf auth login`, with a token that may write\n",
    )
    assert not (tmp_path / "first").exists()

    pushed = convert(hub, tmp_path, *flags, HF_TOKEN=TOKEN)
    assert pushed.returncode == 0, pushed.stderr
    repository = hub.repositories["models", "owls/mine"]
    files = repository.commits[repository.refs["main"]]
    here = {path.name: path.read_bytes() for path in (tmp_path / "first").iterdir()}
    # What an earlier model left would have been read before the new one's weights.
    assert files == {**here, "a.txt": b"a"}
    assert pushed.stdout.splitlines()[-1] == f"{hub.url}/owls/mine/commit/{repository.refs['main']}"
    card = ModelCard(files["README.md"].decode())
    assert card.data.library_name == "owl_jax" and card.data.base_model is None
    assert "--push=owls/mine" in card.text and "- llm: llama, " in card.text
    assert verify(tmp_path / "first").files == len(here) - 2  # but itself and the card

    flags = ("--source=owls/mine", "--verify", "--format=orbax", "--target=second")
    converted = convert(hub, tmp_path, *flags, "--push=owls/new", "--private", HF_TOKEN=TOKEN)
    assert converted.returncode == 0, converted.stderr
    commit = repository.refs["main"]
    assert converted.stdout.startswith(f"owls/mine@{commit}: OK, as listed")
    assert hub.repositories["models", "owls/new"].access == "private"
    new = hub.repositories["models", "owls/new"]
    card = ModelCard(new.commits[new.refs["main"]]["README.md"].decode())
    assert card.data.base_model == "owls/mine"


@pytest.mark.parametrize("flag", ["mine", "owls/mine@v1", "hf://datasets/owls/mine", "./owls/a"])
def test_other_names_are_refused(flag):
    with pytest.raises(UserError, match=r"--push=.*: expected ORG/NAME, a model on the hub"):
        open_repository(flag, None)


def test_an_upload_needs_a_target(hub, tmp_path):
    for flags, expected in (
        (("--verify", "--push=a/b"), "--push uploads a target; give --target too"),
        (("--verify", "--private"), "--private has no meaning without --push"),
    ):
        result = convert(hub, tmp_path, "--source=x", *flags)
        assert result.returncode == 2 and expected in result.stderr
