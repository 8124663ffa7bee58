"""Several sources as one."""

import pickle

import pytest

from owl_jax.data.sources.concatenated import ConcatenatedSource
from owl_jax.data.sources.detect import open_source
from owl_jax.demo.synthetic import SyntheticSource


def test_one_after_another():
    parts = [open_source(SyntheticSource({"text_math": 1}, size=n, seed=n)) for n in (2, 1, 3)]
    source = pickle.loads(pickle.dumps(ConcatenatedSource(parts)))
    assert len(source) == 6
    expected = [part[i] for part in parts for i in range(len(part))]
    assert [source[i] for i in range(6)] == expected
    places = [0, 1, 0, 0, 1, 2]
    assert [source.where(i) for i in range(6)] == [f"synthetic:{place}" for place in places]
    with pytest.raises(IndexError):
        source[6]
