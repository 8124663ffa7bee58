"""The launchers' commands in docs/launch are taken as they stand there."""

import re
import shlex

import pytest
from stubs import REPOSITORY, Stubs

PAGES = sorted((REPOSITORY / "docs" / "launch").glob("*.md"))


def commands(page):
    """The command lines of launch/ in the page's examples, split into words."""
    text = page.read_text(encoding="utf-8").replace("\\\n", " ")
    for line in re.findall(r"^ {4,}(launch/.*)", text, re.MULTILINE):
        words = shlex.split(line.split(" && ")[0])
        if words[-1] == "...":
            words[-1:] = ["--config=configs/stage2.py", "--workdir=w"]
        yield words


def test_there_is_a_page_for_each_way():
    assert [page.stem for page in PAGES] == ["cloud_tpu", "gke", "gpus", "slurm"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_each_command_of_the_page(tmp_path, page):
    stubs = Stubs(tmp_path / "stubs")
    python = ["--python=bash"] if page.stem in ("gpus", "slurm") else []  # .venv may be elsewhere
    found = list(commands(page))
    assert {words[0] for words in found} == {f"launch/{page.stem}.sh"}
    for words in found:
        script = words[0].removeprefix("launch/")
        action = [] if script == "gpus.sh" else words[1:2]
        result = stubs.run(script, *action, "--dry-run", *python, *words[1 + len(action) :])
        assert result.returncode == 0, (words, result.stderr)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_flags_that_the_page_names_exist(page):
    script = (REPOSITORY / "launch" / f"{page.stem}.sh").read_text()
    named = set(re.findall(r"`(--[a-z_-]+)", page.read_text(encoding="utf-8")))
    assert named
    for flag in named:
        assert flag in script, flag


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\((?!http)([^)#]*)", page.read_text(encoding="utf-8")):
        assert not target or (page.parent / target).exists(), target
