"""MiniGPT-v2's connector: four neighbours in a row become one token."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
from run_connector import CLASS_TOKEN, GRID, E, connect, draw, flops, frames_of

from owl_jax.models.connectors.token_merge import TokenMergeConfig


@pytest.mark.parametrize("merged", [1, 2, 4])
def test_neighbours_are_joined_in_width(merged):
    connector = TokenMergeConfig(merged)
    params, encoded = draw(connector, GRID), frames_of(GRID)
    got = connect(connector, GRID, params, encoded)
    assert got.shape == (2, connector.num_tokens(GRID, 3), E) == (2, 3 * 16 // merged, E)
    kernel, bias = params["project"]["kernel"], params["project"]["bias"]
    tokens = encoded.reshape(2, 48, 8)
    for i in range(48 // merged):
        joined = np.concatenate([tokens[:, merged * i + k] for k in range(merged)], axis=-1)
        np.testing.assert_allclose(got[:, i], joined @ kernel + bias, atol=1e-5)


def test_flops_are_those_of_its_matrix():
    connector = TokenMergeConfig()
    assert flops(connector, GRID, draw(connector, GRID), 3) == 2 * 3 * 4 * (4 * 8 * E)


def test_names():
    sources = [row.source for row in TokenMergeConfig().weight_rows()]
    assert sources == ["llama_proj.weight", "llama_proj.bias"]


def test_what_does_not_fit():
    connector = TokenMergeConfig()
    assert connector.mismatches(GRID, E) == []
    assert connector.mismatches(dataclasses.replace(CLASS_TOKEN, class_token_output=False), E) == []
    (problem,) = connector.mismatches(CLASS_TOKEN, E)
    assert problem == (
        "connector token_merge needs a grid of patches, but clip puts a class token before it; "
        "set vision.class_token_output=False"
    )
    other = SimpleNamespace(architecture="mine", num_prefix_tokens=1, grid=(4, 4))
    (problem,) = connector.mismatches(other, E)
    assert problem.endswith("mine puts a class token before it; use an encoder without it")
    (problem,) = connector.mismatches(dataclasses.replace(GRID, image_size=24), E)
    assert "merged 4 does not divide the 6 columns of the encoder's 6 x 6 patches" in problem
