"""What an installed copy holds, and what is told about it."""

import re
import shutil
import subprocess
import sys
import zipfile
from email import message_from_string
from pathlib import Path

import pytest
import yaml

import owl_jax
from owl_jax import scripts

ROOT = Path(__file__).parents[1]
NOT_CODE = ("setup.py", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE")


def files_of(folder):
    """The files below a folder of the repository, by their paths in the wheel."""
    files = (path for path in (ROOT / folder).rglob("*") if path.is_file())
    return {path.relative_to(ROOT).as_posix() for path in files if path.suffix != ".pyc"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """A wheel from a source distribution of a copy, since setuptools writes beside setup.py."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in ("owl_jax", "configs"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, folder / "copy" / name, ignore=ignored)
    for name in NOT_CODE:
        shutil.copy(ROOT / name, folder / "copy" / name)
    code = f"from setuptools import build_meta; build_meta.build_sdist({str(folder)!r})"
    run([sys.executable, "-c", code], folder / "copy")
    (source,) = folder.glob("*.tar.gz")
    command = [sys.executable, "-m", "pip", "wheel", "--no-index", "--no-deps"]
    run([*command, "--no-build-isolation", "--wheel-dir=.", source.name], folder)
    (built,) = folder.glob("*.whl")
    with zipfile.ZipFile(built) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def run(command, folder):
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def about(wheel, name):
    (text,) = (
        data for path, data in wheel.items() if re.fullmatch(rf"[^/]+\.dist-info/{name}", path)
    )
    return text.decode()


def test_a_wheel_has_every_file_of_the_package_and_the_configs(wheel):
    configs = {f"owl_jax/{path}" for path in files_of("configs")}
    assert {
        "owl_jax/py.typed",
        "owl_jax/pages/templates/base.html",
        "owl_jax/serving/static/main.js",
        "owl_jax/configs/demo/tokenizer/tokenizer.model",
    } <= wheel.keys()
    found = {path for path in wheel if ".dist-info/" not in path}
    assert found == files_of("owl_jax") | configs
    assert about(wheel, "licenses/LICENSE") == (ROOT / "LICENSE").read_text()


def test_version_and_licence(wheel):
    metadata = message_from_string(about(wheel, "METADATA"))
    assert metadata["Version"] == owl_jax.__version__
    assert metadata["License-Expression"] == "Apache-2.0"


def test_every_command_is_a_console_script(wheel):
    """A command is a module that ends with cli.run; two of them have another name than that."""
    lines = about(wheel, "entry_points.txt").partition("[console_scripts]")[2].split("[")[0]
    listed = dict(line.split(" = ") for line in lines.split("\n") if line)
    modules = {}
    for script, target in listed.items():
        module, name = target.split(":")
        assert module == "owl_jax.scripts" and script == f"owl-{name}"
        named, modules[name] = getattr(scripts, name).args
        assert named == script
    paths = [path.relative_to(ROOT) for path in (ROOT / "owl_jax").rglob("*.py")]
    commands = [
        ".".join(path.with_suffix("").parts).removesuffix(".__main__")
        for path in paths
        if re.search(r"^    cli\.run\(", path.read_text(), re.MULTILINE)
    ]
    assert sorted(modules.values()) == sorted(commands) and len(commands) >= 11
    assert modules["train"] == "owl_jax.train" and modules["preview"] == "owl_jax.preview"


def test_the_changelog_has_the_version():
    text = (ROOT / "CHANGELOG.md").read_text()
    assert re.search(rf"^## \[?{re.escape(owl_jax.__version__)}\b", text, re.MULTILINE)


def test_the_citation_names_the_paper_as_the_readme_does():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["license"] == "Apache-2.0"
    (paper,) = citation["references"]
    entry = re.search(r"@misc\{.*?^\}", (ROOT / "README.md").read_text(), re.DOTALL | re.MULTILINE)[
        0
    ]
    fields = dict(re.findall(r"(\w+) *= \{(.*?)\}", entry, re.DOTALL))
    names = [f"{author['given-names']} {author['family-names']}" for author in paper["authors"]]
    assert names == re.split(r"\s+and\s+", fields["author"])
    assert paper["title"] == fields["title"] and str(paper["year"]) == fields["year"]
    assert f"arXiv:{fields['eprint']}" in paper["identifiers"][0]["value"]
