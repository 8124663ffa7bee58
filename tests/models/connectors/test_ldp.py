"""MobileVLM V2's LDPv2, against SciPy's convolution."""

import dataclasses

import numpy as np
from run_connector import CLASS_TOKEN, GRID, E, connect, draw, flops, frames_of
from scipy.ndimage import correlate
from scipy.special import erf

from owl_jax.models.connectors.ldp import LdpConfig

CONNECTOR = LdpConfig(20)


def by_hand(grid, params):
    """float64[4, 4, D] of one frame -> [2 * 2, E]."""
    x = grid @ params["up"]["kernel"] + params["up"]["bias"]
    x = 0.5 * x * (1 + erf(x / np.sqrt(2)))
    x = x @ params["down"]["kernel"] + params["down"]["bias"]
    x = (x[::2, ::2] + x[1::2, ::2] + x[::2, 1::2] + x[1::2, 1::2]) / 4
    kernel, bias = params["position"]["kernel"], params["position"]["bias"]
    convolved = [correlate(x[..., c], kernel[..., c], mode="constant") for c in range(E)]
    return (x + np.stack(convolved, axis=-1) + bias).reshape(4, E)


def test_every_frame_is_pooled_and_convolved_by_itself():
    params, encoded = draw(CONNECTOR, GRID), frames_of(GRID)
    got = connect(CONNECTOR, GRID, params, encoded)
    assert got.shape == (2, CONNECTOR.num_tokens(GRID, 3), E) == (2, 12, E)
    for n in range(2):
        for t in range(3):
            expected = by_hand(encoded[n, t].reshape(4, 4, 8).astype(np.float64), params)
            np.testing.assert_allclose(got[n, 4 * t : 4 * t + 4], expected, atol=1e-5)


def test_flops_are_those_of_its_matrices():
    layers = 3 * 16 * (8 * 20 + 20 * E)
    assert flops(CONNECTOR, GRID, draw(CONNECTOR, GRID), 3) == 2 * (layers + 3 * 4 * 9 * E)


def test_names():
    sources = [row.source for row in CONNECTOR.weight_rows() if row.source.endswith("weight")]
    names = ("mlp.mlp.0", "mlp.mlp.2", "peg.peg.0")
    assert sources == [f"model.mm_projector.{name}.weight" for name in names]


def test_what_does_not_fit():
    assert CONNECTOR.mismatches(GRID, E) == []
    (problem,) = CONNECTOR.mismatches(CLASS_TOKEN, E)
    assert "connector ldp needs a grid of patches, but clip puts a class token" in problem
    (problem,) = CONNECTOR.mismatches(dataclasses.replace(GRID, image_size=20), E)
    assert problem == (
        "connector ldp pools 2 x 2 patches, but the encoder gives 5 x 5; choose another "
        "vision.image_size"
    )
