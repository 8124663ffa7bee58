"""docs/add_a_conversation_format.md as written: its format trains, is saved, loaded, and chats."""

import dataclasses
import json
import re
import runpy
import textwrap
from pathlib import Path

import numpy as np
import pytest
import tiny

import owl_jax
from owl_jax.errors import UserError
from owl_jax.text.conversation import tokenize_prompt
from owl_jax.text.formats import FORMATS
from owl_jax.text.formats.format import Format
from owl_jax.training.config import base_config, read_model
from owl_jax.training.loop import train

PAGE = Path(__file__).parents[3] / "docs" / "add_a_conversation_format.md"


def blocks_of(section):
    """The indented blocks of code of a section."""
    text = PAGE.read_text().split(f"\n## {section}\n")[1].split("\n## ")[0]
    blocks = re.findall(r"(?:^ {4}.*\n|^\n(?= {4}|\n {4}))+", text, re.MULTILINE)
    return [textwrap.dedent(block).lstrip("\n") for block in blocks]


def test_what_the_page_shows_trains_and_chats(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tiny.write_model(tmp_path / "base")
    Path("alpaca.py").write_text(blocks_of("Write the file")[0])
    Path("config.py").write_text(blocks_of("Train with it")[0])
    texts = [f"Human: What is {n}?\nAI: It is {n}, a number." for n in range(40)]
    Path("pairs.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in texts))
    config = runpy.run_path("config.py")["get_config"]()
    train(config, tmp_path / "run")

    Path("alpaca.py").unlink()
    owl = owl_jax.load("run/model", "float32")
    alpaca = owl.config.conversation
    assert isinstance(alpaca, Format) and owl.format == alpaca and alpaca.name == "alpaca"
    assert owl.config.connector == tiny.CONFIG.connector
    ids = tokenize_prompt(
        "Human: What?\nAI: ", owl.tokenizer, owl.config.media_lengths(), format=alpaca
    )
    written = "Below is an instruction. Write a response to it.\n\n### Instruction:\nWhat?\n\n"
    assert owl.tokenizer.decode(ids) == f"{written}### Response:\n"
    answer = owl.chat([{"role": "user", "content": "What?"}], max_new_tokens=8)
    tokens = owl.generate(np.asarray(ids)[None], max_new_tokens=8)[0]
    assert owl.tokenizer.decode(tokens) == answer
    # It survives another save, in either format.
    for format in ("orbax", "huggingface"):
        owl.save(tmp_path / format, format)
        again = owl_jax.load(tmp_path / format, "float32")
        assert again.config.conversation == alpaca


def test_the_page_names_every_format_and_field():
    page = PAGE.read_text()
    for name in FORMATS:
        assert f"| `{name}`" in page
    for field in Format.__dataclass_fields__:
        assert f"`{field}`" in page.split("## Train with it")[0]


def test_a_config_may_name_a_built_in_format():
    config = base_config(tiny.CONFIG)
    assert read_model(config).conversation == "owl"
    config.model.conversation = "vicuna_v1"
    assert read_model(config) == dataclasses.replace(tiny.CONFIG, conversation="vicuna_v1")
    mine = dataclasses.replace(FORMATS["chatml"], name="mine")
    own = dataclasses.replace(tiny.CONFIG, conversation=mine)
    assert read_model(base_config(own)) == own
    config.model.conversation = "alpaca"
    with pytest.raises(UserError, match=r"config\.model: conversation is 'alpaca'; expected owl, "):
        read_model(config)
    config.model.conversation = "none.py"
    with pytest.raises(UserError, match=r"format file none\.py: No such file or directory; exp"):
        read_model(config)
