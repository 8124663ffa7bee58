import dataclasses

import numpy as np
import pytest

from owl_jax.errors import UserError
from owl_jax.inference.prompt import BUCKET, prompt_arrays, round_up
from owl_jax.models.config import OwlConfig
from owl_jax.models.connectors.abstractor import AbstractorConfig
from owl_jax.models.language.llama import LlamaConfig
from owl_jax.models.vision.clip import ClipConfig

# Two queries, so three positions a medium; pictures of 2 x 2 pixels.
CONFIG = OwlConfig(
    vision=ClipConfig(image_size=2),
    connector=AbstractorConfig(num_query_tokens=2),
    llm=LlamaConfig(vocab_size=10),
)
IMAGE, VIDEO = [-1] * 3, [-2] * 3


def pictures(*values):
    return np.stack([np.full((2, 2, 3), value, np.float32) for value in values])


def videos(*values):
    return np.stack([np.full((4, 2, 2, 3), value, np.float32) for value in values])


def test_length_is_rounded_up():
    assert [round_up(n) for n in (1, 64, 65)] == [64, 64, 128]
    prompt = prompt_arrays(CONFIG, np.ones((2, BUCKET + 1), int))
    assert prompt.input_ids.shape == prompt.media_index.shape == (2, 2 * BUCKET)
    assert prompt.lengths.tolist() == [BUCKET + 1] * 2
    assert prompt.images is prompt.videos is None


def test_padding_on_either_side():
    ids = np.array([[7, 7, 3, 4, 5], [1, 2, 7, 7, 7], [1, 2, 3, 4, 5]])
    mask = np.array([[0, 0, 1, 1, 1], [1, 1, 0, 0, 0], [1, 1, 1, 1, 1]], np.float32)
    prompt = prompt_arrays(CONFIG, ids, mask)
    assert prompt.input_ids[:, :6].tolist() == [
        [3, 4, 5, 0, 0, 0],
        [1, 2, 0, 0, 0, 0],
        [1, 2, 3, 4, 5, 0],
    ]
    assert prompt.lengths.tolist() == [3, 2, 5]


def test_media_move_with_the_tokens():
    ids, mask = np.array([[7, *IMAGE, 5], [*IMAGE, 5, 6]]), np.array([[0, 1, 1, 1, 1], [1] * 5])
    prompt = prompt_arrays(CONFIG, ids, mask, pictures(1, 2))
    assert prompt.media_index[:, :5].tolist() == [[0, 1, 2, -1, -1], [0, 1, 2, -1, -1]]
    assert prompt.input_ids[:, :5].tolist() == [[0, 0, 0, 5, 0], [0, 0, 0, 5, 6]]


def test_media_go_to_their_rows_in_reading_order():
    ids = np.array([[*IMAGE, 5, *IMAGE, 5, 5, 5], [5] * 10, [5, *VIDEO, *IMAGE, 5, 5, 5]])
    prompt = prompt_arrays(CONFIG, ids, None, pictures(1, 2, 3), videos(4))
    assert prompt.images.shape == (3, 2, 2, 2, 3)
    assert prompt.images[:, :, 0, 0, 0].tolist() == [[1, 2], [0, 0], [3, 0]]
    assert prompt.videos.shape == (3, 1, 4, 2, 2, 3)
    assert prompt.videos[:, 0, 0, 0, 0, 0].tolist() == [0, 0, 4]
    # Three vectors a slot: two image slots, then the video's.
    assert prompt.media_index[:, :10].tolist() == [
        [0, 1, 2, -1, 3, 4, 5, -1, -1, -1],
        [-1] * 10,
        [-1, 6, 7, 8, 0, 1, 2, -1, -1, -1],
    ]
    assert prompt.input_ids.min() == 0


def test_padding_may_hold_media_ids():
    prompt = prompt_arrays(CONFIG, np.array([[-1, 5, 5]]), np.array([[0, 1, 1]]))
    assert prompt.media_index.max() == -1


def test_pixels_stay_bytes_or_become_float32():
    ids = np.array([IMAGE])
    assert prompt_arrays(CONFIG, ids, None, pictures(1).astype(np.uint8)).images.dtype == np.uint8
    assert prompt_arrays(CONFIG, ids, None, pictures(1).astype(np.float64)).images.dtype == (
        np.float32
    )


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"input_ids": [1, 2]}, r"int64\[2\]; expected integers \[batch, length\]"),
        ({"input_ids": [[1.0, 2.0]]}, "float64"),
        ({"input_ids": [[1, 2], [3]]}, "input_ids is not an array"),
        ({"input_ids": [["a"]]}, "expected integers"),
        ({"input_ids": None}, "expected an array of numbers"),
        ({"input_ids": [[1]], "attention_mask": [["a"]]}, "expected numbers, 0 on padding"),
        ({"input_ids": [[1]], "attention_mask": [[float("nan")]]}, "mask holds nan; expected 1"),
        ({"input_ids": [[1, 1]], "attention_mask": [[0, float("-inf")]]}, "mask holds -inf"),
        ({"input_ids": [[1, 1]], "attention_mask": [[1, 2]]}, "mask holds 2; expected 1"),
        ({"input_ids": [IMAGE], "images": np.zeros((2, 2, 3))}, r"float64\[2, 2, 3\]; expected"),
        ({"input_ids": [IMAGE], "images": np.zeros((1, 2, 2, 3), int)}, "int64; expected uint8"),
        ({"input_ids": [IMAGE], "images": "owl.png"}, "expected .N, S"),
        ({"input_ids": np.zeros((2, 0), int)}, "has no token"),
        ({"input_ids": [[1, 2]], "attention_mask": [[1]]}, r"attention_mask is \[1, 1\]"),
        ({"input_ids": [[1, 2]], "attention_mask": [[0, 0]]}, "has no token"),
        (
            {"input_ids": [[1, 1, 1]] * 2, "attention_mask": [[1, 1, 0], [1, 0, 1]]},
            "sequence 1 has padding between",
        ),
        ({"input_ids": [[1, 10]]}, "holds 10; expected ids below the model's 10"),
        ({"input_ids": [[-3, 1]]}, "holds -3"),
        ({"input_ids": [IMAGE[:2]]}, "sequence 0 .* 2 tokens of id -1 .image.; expected 3"),
        ({"input_ids": [IMAGE]}, r"0 image\(s\) given, .* marks for 1"),
        ({"input_ids": [[1]], "images": pictures(1)}, r"1 image\(s\) given, .* marks for 0"),
        (
            {"input_ids": [IMAGE, VIDEO], "images": pictures(1, 2)},
            r"2 image\(s\) given, .* marks for 1",
        ),
        ({"input_ids": [VIDEO]}, r"0 video\(s\) given"),
        (
            {"input_ids": [IMAGE], "images": np.zeros((1, 3, 2, 2))},
            r"\[1, 3, 2, 2\]; expected \[N, S",
        ),
        ({"input_ids": [VIDEO], "videos": pictures(1)}, r"expected \[M, T, S, S, 3\] with S = 2"),
    ],
)
def test_wrong_input(arguments, named):
    with pytest.raises(UserError, match=named):
        prompt_arrays(CONFIG, **arguments)


def test_a_sequence_may_hold_the_whole_vocabulary():
    config = dataclasses.replace(CONFIG, llm=LlamaConfig(vocab_size=3))
    assert prompt_arrays(config, [[0, 1, 2]]).lengths.tolist() == [3]


@pytest.mark.parametrize(
    ("ids", "media", "message"),
    [
        ([[1, -1, -1, -1]], {"images": pictures(1)}, "3 tokens of id -1, but .* takes no images"),
        ([[1, 2]], {"images": pictures(1)}, "images given, but this language model has no vision"),
        ([[1, -2]], {}, "1 tokens of id -2, but this .* no vision encoder: it takes no videos"),
        ([[1, -3]], {}, "input_ids holds -3"),
    ],
)
def test_a_language_model_alone_takes_text_only(ids, media, message):
    alone = dataclasses.replace(CONFIG, vision=None, connector=None)
    prompt = prompt_arrays(alone, [[1, 2, 3]])
    assert prompt.images is prompt.videos is None
    assert (prompt.media_index == -1).all()
    with pytest.raises(UserError, match=message):
        prompt_arrays(alone, ids, **media)
