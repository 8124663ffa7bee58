"""Names of configs that ship, in a checkout and in an installation, and as --config takes them."""

import runpy
import shutil
from pathlib import Path

import forked
import pytest

from owl_jax import shipped

ROOT = Path(__file__).parents[1]


def test_the_names_in_a_checkout():
    names = shipped.config_names()
    assert {"stage2", "modern", "demo/stage1", "owl2/stage1", "llava/stage2_lora"} <= set(names)
    assert not {"demo/synthetic", "demo/make_tokenizer"} & set(names)  # these are no configs
    assert shipped.config_file("demo/stage1") == str(ROOT / "configs" / "demo" / "stage1.py")
    for other in (
        "stage7",
        "stage2.py",
        "configs/stage2",
        "demo",
        "/stage2",
        "../configs/stage2",
        "",
    ):
        assert shipped.config_file(other) is None


def test_an_installation_has_its_own(tmp_path):
    """Where some other package's configs/ may be beside it."""
    (tmp_path / "owl_jax").mkdir()
    (tmp_path / "configs").mkdir()
    shutil.copy(ROOT / "owl_jax" / "shipped.py", tmp_path / "owl_jax")
    shutil.copytree(ROOT / "configs" / "owl2", tmp_path / "owl_jax" / "configs" / "owl2")
    installed = runpy.run_path(str(tmp_path / "owl_jax" / "shipped.py"))
    assert installed["CONFIGS"] == tmp_path / "owl_jax" / "configs"
    assert installed["config_names"]() == ["owl2/stage1", "owl2/stage2"]


@pytest.mark.parametrize(
    ("typed", "name"),
    [
        ("stge2", "stage2"),
        ("configs/stage2.py", "stage2"),
        ("./configs/demo/stage1.py", "demo/stage1"),
        ("modem", "modern"),
        ("zebra", None),
    ],
)
def test_the_nearest_name(typed, name):
    assert shipped.nearest_name(typed) == name


COMMAND = """
from owl_jax import cli

CONFIG = cli.define_config_flag()


def main(_):
    print(CONFIG.value.init.vision)


if __name__ == "__main__":
    cli.run(main)
"""


def test_config_takes_a_name_in_any_folder(tmp_path):
    (tmp_path / "show.py").write_text(COMMAND)

    def call(config):
        result = forked.run("show.py", f"--config={config}", directory=tmp_path)
        assert (result.returncode == 0) == (result.stderr == "")
        return result

    assert call("stage2:bloomz").stdout == "weights/mplug-owl-bloomz\n"
    wrong = call("configs/stage2.py").stderr
    assert wrong.startswith("error: config file 'configs/stage2.py' does not exist; did you mean")
    assert " --config=stage2? " in wrong and ": demo/owleval, demo/stage0, " in wrong
    assert wrong.count("\n") == 1
    (tmp_path / "stage2").write_text("raise ValueError('a file wins')\n")
    assert "stage2, line 1: ValueError: a file wins" in call("stage2:bloomz").stderr


def test_the_demonstration_needs_no_file_of_this_folder(tmp_path):
    arguments = ["--config=demo/stage1", "--output=page.html", "--batches=1", "--rows=1"]
    result = forked.run("-m", "owl_jax.data.preview", *arguments, "--records=5", directory=tmp_path)
    assert result.returncode == 0, result.stderr
    assert f"{ROOT}/configs/demo/tokenizer" in (tmp_path / "page.html").read_text()
