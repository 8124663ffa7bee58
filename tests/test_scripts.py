"""Console scripts, as pip writes them."""

import sys
from types import SimpleNamespace

import forked
import pytest

import owl_jax
from owl_jax.command_names import as_called

SCRIPT = """
import sys
from owl_jax.scripts import {name}
sys.exit({name}())
"""


@pytest.fixture
def script(tmp_path):
    def call(name, *arguments):
        (tmp_path / f"owl-{name}").write_text(SCRIPT.format(name=name))
        return forked.run(f"owl-{name}", *arguments, directory=tmp_path)

    return call


def test_help_names_the_command_as_it_was_called(script):
    for name, module in ("train", "train"), ("preview", "data.preview"), ("serve", "serve"):
        shown = script(name, "--help")
        assert shown.returncode == 0, shown.stderr
        by_module = forked.run("-m", f"owl_jax.{module}", "--help").stdout
        assert f"python -m owl_jax.{module} --" in by_module and "owl-" not in by_module
        assert shown.stdout == by_module.replace(f"python -m owl_jax.{module}", f"owl-{name}")


def test_version_and_status(script):
    assert script("convert", "--version").stdout == f"owl_jax {owl_jax.__version__}\n"
    wrong = script("train", "--config=demo/stage0", "--workdr=x")
    assert wrong.returncode == 2 and wrong.stderr.count("\n") == 1, wrong.stderr
    missing = script("ablation", "--demo=nowhere")
    assert missing.returncode == 1 and "run `owl-demo` first" in missing.stderr


def test_names_in_messages(monkeypatch):
    text = (
        "python -m owl_jax.prepare, python -m owl_jax.data.preview --x, python -m owl_jax.chat. "
        "python -m owl_jax.parallel.xla_flags"
    )
    assert as_called(text) == text
    monkeypatch.setitem(sys.modules, "__main__", SimpleNamespace(__script__="owl-train"))
    assert as_called(text) == (
        "owl-prepare, owl-preview --x, owl-chat. python -m owl_jax.parallel.xla_flags"
    )
