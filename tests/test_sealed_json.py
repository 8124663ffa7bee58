"""A JSON object with its hash: what is changed afterwards is noticed."""

import json

import pytest

from owl_jax.sealed_json import Damaged, digest, sealed, unsealed

VALUES = {"names": ["öwl", "\ud800"], "share": 0.1, "none": None, "inner": {"2": True}}


def test_what_is_sealed_comes_back():
    written = sealed(VALUES | {"inner": {2: True}})
    assert unsealed(json.loads(json.dumps(written)), "list") == (VALUES, True)
    assert list(written)[-1] == "sha256" and written["sha256"] == digest(VALUES)
    assert unsealed(VALUES, "list") == (VALUES, False)


@pytest.mark.parametrize(
    "change", [{"share": 0.2}, {"more": 1}, {"names": []}, {"sha256": "ab"}, {"sha256": None}]
)
def test_what_is_changed_is_noticed(change):
    with pytest.raises(Damaged, match="its list is not what was written"):
        unsealed(sealed(VALUES) | change, "list")


@pytest.mark.parametrize("values", [None, [], "text", 5])
def test_what_is_no_object(values):
    with pytest.raises(Damaged, match="its list is not a JSON object"):
        unsealed(values, "list")
