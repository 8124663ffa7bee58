"""Former keys of configs, as files set them and as flags override them."""

import pytest

from owl_jax.former_keys import replacement_of


@pytest.mark.parametrize("key", ["data.synthetic", "data.synthetic.vqa", "data.synthetic_size"])
def test_a_former_key_and_what_was_below_it(key):
    assert "configs/demo/synthetic.py" in replacement_of(key)


@pytest.mark.parametrize(
    ("key", "now"),
    [
        ("accumulate", "gradient_accumulation_steps"),
        ("any_base", "allow_base_mismatch"),
        ("data.length", "data.sequence_length"),
        ("init.abstractor", "init.connector"),
        ("model.abstractor", "model.connector"),
        ("model.abstractor.num_layers", "model.connector.num_layers"),
    ],
)
def test_a_renamed_key_names_the_new_one(key, now):
    assert replacement_of(key) == f"is now config.{now}"


@pytest.mark.parametrize("key", ["data", "data.mixture", "data.synthetics", "synthetic", ""])
def test_other_keys(key):
    assert replacement_of(key) is None
