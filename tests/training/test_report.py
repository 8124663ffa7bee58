"""A run's report: its metrics as curves."""

import json

from html_page import Page

from owl_jax.training.report import write_curves


def write_metrics(workdir, rows):
    workdir.mkdir(parents=True)
    (workdir / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return workdir


def test_curves_of_a_workdir(tmp_path):
    workdir = write_metrics(
        tmp_path / "run <1>",
        [
            {
                "step": step,
                "loss": 1 / step,
                "grad_norm": None if step == 2 else 0.5,
                "tokens_per_second": 100.0 * step,
                "useful_tokens_per_second": 80.0 * step,
                "learning_rate/vision": 1e-4 * step,
                "learning_rate/lora": 1e-3 * step,
            }
            for step in (1, 2, 3)
        ],
    )
    write_curves(workdir / "report.html", workdir)
    page = Page(workdir / "report.html")
    assert page.drawings() == [
        "Loss: loss from 1 at step 1 to 0.3333 at step 3",
        "Learning rate: lora from 0.001 at step 1 to 0.003 at step 3; "
        "vision from 0.0001 at step 1 to 0.0003 at step 3",
        "Gradient norm: grad_norm from 0.5 at step 1 to 0.5 at step 3",
        "Tokens per second: tokens_per_second from 100 at step 1 to 300 at step 3; "
        "useful_tokens_per_second from 80 at step 1 to 240 at step 3",
    ]
    assert page.text.startswith("run <1> run <1>")
    assert page.fetched() == []
    assert "http" not in (workdir / "report.html").read_text("utf-8")


def test_curves_of_a_run_that_logged_nothing(tmp_path):
    write_curves(tmp_path / "report.html", tmp_path)
    assert Page(tmp_path / "report.html").text.count("No values.") == 4
