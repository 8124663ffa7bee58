"""The ids that end an answer, according to the files in a model's directory.

Recent language models have several: Llama 3 has one each for the end of a text, of a turn and of a
tool call.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from owl_jax.files import read_json
from owl_jax.text.tokenizer_files import is_there

GENERATION_FILE = "generation_config.json"
# A Hugging Face directory's config.json, and its copy in a directory converted from one.
_CONFIG_FILES = ("config.json", "source_config.json")


def read_end_ids(directory: Path, vocab_size: int) -> tuple[int, ...]:
    """eos_token_id of generation_config.json, and those of config.json if it lists several.

    A single id in config.json is ignored: first-generation LLaMA and fine-tuned models have a wrong
    one there, and the tokenizer's files name the right one. So is a single id that
    generation_config.json took from config.json. Ids outside the vocabulary are left out.

    Raises UserError for a file that is not a JSON object.
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
    """The ids in order, without duplicates."""
    return tuple(dict.fromkeys(ids))


def _ids(value: Any) -> list[int]:
    values = value if isinstance(value, list) else [value]
    return [id for id in values if type(id) is int]
