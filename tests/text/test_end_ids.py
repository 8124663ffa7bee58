"""Which ids end an answer, by the files of a model's directory."""

import json

import pytest

from owl_jax.errors import UserError
from owl_jax.text.end_ids import read_end_ids


@pytest.mark.parametrize(
    ("files", "ids"),
    [
        ({}, ()),
        ({"generation_config": {"eos_token_id": [7, 5, 7, 400]}}, (7, 5)),
        ({"generation_config": {"eos_token_id": 7}}, (7,)),
        ({"generation_config": {"eos_token_id": 7, "_from_model_config": True}}, ()),
        ({"generation_config": {"eos_token_id": [7, 5], "_from_model_config": True}}, (7, 5)),
        ({"generation_config": {"eos_token_id": None}, "config": {"eos_token_id": 3}}, ()),
        ({"generation_config": {"eos_token_id": ["a", True, -1, 2.0]}}, ()),
        ({"generation_config": {}, "config": {"eos_token_id": [3, 4]}}, (3, 4)),
        ({"config": {"text_config": {"eos_token_id": [3, 4]}, "eos_token_id": 9}}, (3, 4)),
        ({"source_config": {"eos_token_id": [3, 4]}, "config": {"format": "owl_jax"}}, (3, 4)),
    ],
)
def test_ids_of_the_files(files, ids, tmp_path):
    for name, values in files.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(values))
    assert read_end_ids(tmp_path, 400) == ids


def test_a_damaged_file_is_named(tmp_path):
    (tmp_path / "generation_config.json").write_text("{")
    with pytest.raises(UserError, match=r"generation_config\.json"):
        read_end_ids(tmp_path, 400)
