"""docs/add_a_benchmark.md, as it is."""

import json
import re
from pathlib import Path

import tiny
from docs_page import ROOT, run_page


def test_a_benchmark_of_your_own(tmp_path):
    tiny.write_model(tmp_path / "model")
    *_, answers, model = run_page("add_a_benchmark.md", tmp_path)
    page = (ROOT / "docs" / "add_a_benchmark.md").read_text()
    assert [answers.strip()] == re.findall(r"```\n(.*?)\n```", page, re.DOTALL)
    results = json.loads((tmp_path / "runs" / "answers" / "results.json").read_text())
    assert results["scores"] == {"accuracy": 0.5, "mean error": 1 / 3}
    assert results["categories"]["few"] == {"value": 0.5, "items": 2}
    results = json.loads((tmp_path / "runs" / "model" / "results.json").read_text())
    assert set(results["baselines"]) == {
        "without pictures",
        "with another question's pictures",
        'the most frequent answer, "1"',
    }
    assert Path(model.splitlines()[-1]).name == "report.html"
