"""LLaVA's MLP: each token alone. tests/parity compares it with transformers'."""

import numpy as np
import pytest
from run_connector import CLASS_TOKEN, GRID, E, connect, draw, flops, frames_of
from scipy.special import erf

from owl_jax.models.connectors.mlp import MlpConfig


def by_hand(x, params, layers):
    for number in range(1, layers + 1):
        x = x @ params[f"linear_{number}"]["kernel"] + params[f"linear_{number}"]["bias"]
        if number < layers:
            x = 0.5 * x * (1 + erf(x / np.sqrt(2)))
    return x


@pytest.mark.parametrize("vision", [GRID, CLASS_TOKEN], ids=["grid", "class token"])
@pytest.mark.parametrize("layers", [1, 2, 3])
def test_every_token_of_every_frame_passes_the_layers(layers, vision):
    connector = MlpConfig(20, layers)
    params, encoded = draw(connector, vision), frames_of(vision)
    got = connect(connector, vision, params, encoded)
    expected = by_hand(encoded.astype(np.float64), params, layers).reshape(2, -1, E)
    np.testing.assert_allclose(got, expected, atol=1e-5)
    assert got.shape[1] == connector.num_tokens(vision, 3) == 3 * vision.tokens_per_frame
    assert connector.mismatches(vision, E) == connector.problems("connector") == []


def test_flops_are_those_of_its_matrices():
    connector = MlpConfig(20)
    params = draw(connector, GRID)
    assert flops(connector, GRID, params, 3) == 2 * 3 * 16 * (8 * 20 + 20 * E)


def test_names_of_two_layers():
    rows = MlpConfig().weight_rows()
    assert [row.source for row in rows] == [
        f"multi_modal_projector.linear_{number}.{kind}"
        for number in (1, 2)
        for kind in ("weight", "bias")
    ]
    originals = MlpConfig().original_weight_rows()
    assert [row.source for row in originals if row.source.endswith("weight")] == [
        "model.mm_projector.0.weight",
        "model.mm_projector.2.weight",
    ]
    assert [row.target for row in originals] == [row.target for row in rows]
