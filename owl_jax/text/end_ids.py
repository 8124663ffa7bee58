"""The ids that end an answer, as the files of a model's directory name them.

Language models of today have several: Llama 3 ends a text, a turn and a call of a tool with a token
of its own each.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from owl_jax.files import read_json
from owl_jax.text.tokenizer_files import is_there

GENERATION_FILE = "generation_config.json"
# config.json of a Hugging Face directory; of one that was converted from it.
_CONFIG_FILES = ("config.json", "source_config.json")


def read_end_ids(directory: Path, vocab_size: int) -> tuple[int, ...]:
    """eos_token_id of generation_config.json, and those of config.json if it lists several.

    A single id in config.json does not count: first-generation LLaMA and fine-tuned models have a
    wrong one there, and the tokenizer's files name the right one. Nor does one that
    generation_config.json took from there.

    Raises UserError for a file that is no JSON object; ids outside the vocabulary are left out.
    """
    found: list[int] = []
    if is_there(directory / GENERATION_FILE):
        values = read_json(directory / GENERATION_FILE)
        ids = _ids(values.get("eos_token_id"))
        if len(ids) > 1 or not values.get("_from_model_config"):
            found += ids
    for name in _CONFIG_FILES:
        if is_there(directory / name):
            values = read_json(directory / name)
            text = values.get("text_config")
            ids = _ids((text if isinstance(text, dict) else values).get("eos_token_id"))
            found += ids if len(ids) > 1 else []
    return distinct(id for id in found if 0 <= id < vocab_size)


def distinct(ids: Iterable[int]) -> tuple[int, ...]:
    """The ids without repetition, in order."""
    return tuple(dict.fromkeys(ids))


def _ids(value: Any) -> list[int]:
    values = value if isinstance(value, list) else [value]
    return [id for id in values if type(id) is int]
