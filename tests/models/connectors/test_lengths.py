"""A picture and a video of one sequence take as many tokens as the connector gives them."""

import jax
import numpy as np
import pytest
from small_parts import fitting

from owl_jax.checkpoint.hf_import import abstract_params
from owl_jax.models.compute import Compute
from owl_jax.models.connectors import CONNECTORS
from owl_jax.models.vlm import VisionLanguageModel, variables
from owl_jax.text.media_index import index_media

FRAMES = 3


@pytest.mark.parametrize("name", CONNECTORS)
def test_each_token_gets_its_own_vector(name):
    config = fitting(("siglip", name, "llama"))
    lengths = config.media_lengths(FRAMES)
    random = np.random.default_rng(0)
    params = jax.tree.map(
        lambda x: random.normal(0, 0.3, x.shape).astype(np.float32), abstract_params(config)
    )
    images = random.normal(size=(1, 2, 56, 56, 3)).astype(np.float32)
    videos = random.normal(size=(1, 1, FRAMES, 56, 56, 3)).astype(np.float32)
    # Text, the video between two pictures, text.
    ids = [5, *[-1] * lengths.image, 6, *[-2] * lengths.video, *[-1] * lengths.image, 7]
    ids = np.array([ids], np.int32)
    index = index_media(ids, lengths, image_slots=2, video_slots=1)
    model = VisionLanguageModel(config, Compute())

    @jax.jit
    def run(params):
        table = model.apply(variables(params), images, videos, method="media_table")
        embedded = model.apply(variables(params), ids, table, index, method="embed")
        media = (
            model.apply(variables(params), pixels, method="encode_media")
            for pixels in (images[:, :, None], videos)
        )
        return embedded[0], *media

    embedded, pictures, video = map(np.asarray, run(params))
    words = params["llm"]["embed_tokens"]["embedding"]
    expected = np.concatenate(
        [words[[5]], pictures[0, 0], words[[6]], video[0, 0], pictures[0, 1], words[[7]]]
    )
    np.testing.assert_allclose(embedded, expected, atol=1e-5)
    assert np.abs(pictures[0, 0] - pictures[0, 1]).max() > 1e-3
