"""The examples of the documentation run, and print what stands there."""

import doctest
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("page", ["docs/data.md"])
def test_examples_of_a_page(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    results = doctest.testfile(str(ROOT / page), module_relative=False)
    assert results.attempted > 30 and results.failed == 0


def test_every_reason_to_drop_a_record_is_told():
    code = "\n".join(path.read_text() for path in (ROOT / "owl_jax").rglob("*.py"))
    reasons = set(re.findall(r'(?:BadData|Dropped)\(\s*"([^"]+)"', code))
    assert len(reasons) > 25
    told = set(re.findall(r"`([^`]+)`", (ROOT / "docs/data.md").read_text()))
    assert reasons <= told
