"""LLaMA's relatives: config.json of released models, sizes, scaled rotary positions.

Their numbers are compared with transformers' in tests/parity/test_language_models.py.
"""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from owl_jax.checkpoint.hf_import import abstract_params
from owl_jax.data.batch import SequenceShape
from owl_jax.errors import UserError
from owl_jax.models.config import OwlConfig
from owl_jax.models.hf_config import Source
from owl_jax.models.language import read_language
from owl_jax.models.language.llama import LlamaConfig
from owl_jax.models.language.mistral import MistralConfig
from owl_jax.models.language.qwen2 import Qwen2Config
from owl_jax.models.language.qwen3 import Qwen3Config
from owl_jax.models.language.rope import RopeScaling
from owl_jax.text.media_index import MediaLengths
from owl_jax.training.flops import decode_flops, prefill_flops

# config.json of released models, without what does not describe the computation.
LLAMA_32_1B = {
    "model_type": "llama",
    "attention_bias": False,
    "bos_token_id": 128000,
    "eos_token_id": [128001, 128008, 128009],
    "head_dim": 64,
    "hidden_act": "silu",
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "max_position_embeddings": 131072,
    "mlp_bias": False,
    "num_attention_heads": 32,
    "num_hidden_layers": 16,
    "num_key_value_heads": 8,
    "rms_norm_eps": 1e-05,
    "rope_scaling": {
        "factor": 32.0,
        "high_freq_factor": 4.0,
        "low_freq_factor": 1.0,
        "original_max_position_embeddings": 8192,
        "rope_type": "llama3",
    },
    "rope_theta": 500000.0,
    "tie_word_embeddings": True,
    "vocab_size": 128256,
}
MISTRAL_01 = {
    "model_type": "mistral",
    "bos_token_id": 1,
    "eos_token_id": 2,
    "hidden_act": "silu",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "max_position_embeddings": 32768,
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "num_key_value_heads": 8,
    "rms_norm_eps": 1e-05,
    "rope_theta": 10000.0,
    "sliding_window": 4096,
    "tie_word_embeddings": False,
    "vocab_size": 32000,
}
QWEN_25_05B = {
    "model_type": "qwen2",
    "bos_token_id": 151643,
    "eos_token_id": 151645,
    "hidden_act": "silu",
    "hidden_size": 896,
    "intermediate_size": 4864,
    "max_position_embeddings": 32768,
    "max_window_layers": 21,
    "num_attention_heads": 14,
    "num_hidden_layers": 24,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-06,
    "rope_theta": 1000000.0,
    "sliding_window": 32768,
    "tie_word_embeddings": True,
    "use_sliding_window": False,
    "vocab_size": 151936,
}
QWEN_3_4B = {
    "model_type": "qwen3",
    "attention_bias": False,
    "bos_token_id": 151643,
    "eos_token_id": 151645,
    "head_dim": 128,
    "hidden_act": "silu",
    "hidden_size": 2560,
    "intermediate_size": 9728,
    "max_position_embeddings": 40960,
    "max_window_layers": 36,
    "num_attention_heads": 32,
    "num_hidden_layers": 36,
    "num_key_value_heads": 8,
    "rms_norm_eps": 1e-06,
    "rope_scaling": None,
    "rope_theta": 1000000,
    "sliding_window": None,
    "tie_word_embeddings": True,
    "use_sliding_window": False,
    "vocab_size": 151936,
}
RELEASED = [
    (
        LLAMA_32_1B,
        LlamaConfig(
            *(128256, 2048, 8192, 16, 32, 8, 1e-5, 500000.0, 131072, 128000, 128001),
            tied=True,
            rope_type="llama3",
            rope_factor=32.0,
        ),
        1_235_814_400,
    ),
    (
        MISTRAL_01,
        MistralConfig(*(32000, 4096, 14336, 32, 32, 8, 1e-5, 10000.0, 32768), sliding_window=4096),
        7_241_732_096,
    ),
    (
        QWEN_25_05B,
        Qwen2Config(*(151936, 896, 4864, 24, 14, 2, 1e-6, 1e6, 32768), tied=True),
        494_032_768,
    ),
    (
        QWEN_3_4B,
        Qwen3Config(*(151936, 2560, 9728, 36, 32, 8, 1e-6, 1e6, 40960), head_width=128, tied=True),
        4_022_468_096,
    ),
]
NAMES = ["Llama 3.2 1B", "Mistral 7B v0.1", "Qwen2.5 0.5B", "Qwen3 4B"]


def read(values):
    return read_language(Source(Path("config.json"), values))


@pytest.mark.parametrize(("values", "expected", "parameters"), RELEASED, ids=NAMES)
def test_released_models(values, expected, parameters):
    """Their config.json in both directions, and their published number of parameters."""
    assert read(values) == expected
    assert expected.problems("llm") == []
    written = {**expected.to_hf(), "eos_token_id": expected.eos_token_id}
    assert read({**written, "bos_token_id": expected.bos_token_id}) == expected
    model = OwlConfig(None, None, expected)
    assert OwlConfig.from_dict(json.loads(json.dumps(model.to_dict()))) == model
    leaves = abstract_params(model)["llm"]
    assert count(leaves) == parameters
    assert expected.num_parameters() >= 0.99 * parameters


def count(tree):
    if isinstance(tree, dict):
        return sum(map(count, tree.values()))
    return math.prod(tree.shape)


def test_a_window_without_effect_is_read():
    """Qwen2 names one that use_sliding_window turns off, also by being absent."""
    absent = {k: v for k, v in QWEN_25_05B.items() if k != "use_sliding_window"}
    assert read(absent) == read(QWEN_25_05B)
    with pytest.raises(UserError, match="use_sliding_window = True: not supported"):
        read({**QWEN_25_05B, "use_sliding_window": True})
    # Version 0.2 of Mistral has none; without the key, transformers gives it that of 0.1.
    assert read({**MISTRAL_01, "sliding_window": None}).sliding_window == 0
    absent = {k: v for k, v in MISTRAL_01.items() if k != "sliding_window"}
    assert read(absent).sliding_window == 4096
    assert MistralConfig(sliding_window=0).to_hf()["sliding_window"] is None


@pytest.mark.parametrize(
    ("rope", "message"),
    [
        ({"rope_type": "llama3", "factor": 8.0}, "no value for rope_scaling.low_freq_factor, wh"),
        ({"rope_type": "longrope"}, "rope of type 'longrope'; expected default, linear or llama3"),
        ({"rope_type": "linear", "factor": -1}, "rope_scaling.factor is -1; expected float > 0"),
        ({"rope_type": "default", "partial_rotary_factor": 0.5}, "partial_rotary_factor is 0.5"),
    ],
)
def test_rotary_positions_that_cannot_be_computed(rope, message):
    with pytest.raises(UserError, match=message) as caught:
        read({**LLAMA_32_1B, "rope_scaling": rope})
    assert "\n" not in str(caught.value)


def test_two_descriptions_of_rotary_positions_must_agree():
    both = {"rope_parameters": {**LLAMA_32_1B["rope_scaling"], "rope_theta": 500000.0}}
    assert read({**LLAMA_32_1B, **both}) == read(LLAMA_32_1B)
    both["rope_parameters"]["factor"] = 8.0
    with pytest.raises(UserError, match="rope_parameters and rope_scaling differ"):
        read({**LLAMA_32_1B, **both})


def test_sizes_that_do_not_fit():
    assert LlamaConfig(head_width=96).problems("llm") == []
    assert (
        LlamaConfig(hidden_size=50, head_width=8, num_heads=6, num_kv_heads=2).problems("m") == []
    )
    assert LlamaConfig(num_heads=6, num_kv_heads=4, head_width=8).problems("llm") == [
        "llm.num_heads 6 is not a multiple of llm.num_kv_heads 4"
    ]
    assert LlamaConfig(head_width=9).problems("llm") == [
        "llm.head_width 9 is odd: rotary positions rotate pairs of channels"
    ]
    (line,) = LlamaConfig(rope_low_freq_factor=4.0).problems("llm")
    assert line.startswith(
        "llm.rope_low_freq_factor is 4.0 and rope_high_freq_factor 4.0; expected"
    )


def test_llama_3_scales_slow_angles_only():
    """The rule as its authors state it: by wavelength, in three cases."""
    scaling = RopeScaling("llama3", 8.0, 1.0, 4.0, 8192)
    frequencies = 500000.0 ** (-np.arange(0, 128, 2, dtype=np.float32) / 128)
    expected = []
    for frequency in frequencies:
        wavelength = 2 * math.pi / frequency
        if wavelength < 8192 / 4.0:
            expected.append(frequency)
        elif wavelength > 8192 / 1.0:
            expected.append(frequency / 8.0)
        else:
            smooth = (8192 / wavelength - 1.0) / (4.0 - 1.0)
            expected.append((1 - smooth) * frequency / 8.0 + smooth * frequency)
    scaled = scaling.scale(frequencies)
    np.testing.assert_allclose(scaled, expected, rtol=1e-6)
    assert (scaled == frequencies).any() and (scaled == frequencies / 8).any()
    assert len({*(scaled / frequencies).tolist()}) > 5
    np.testing.assert_array_equal(RopeScaling("linear", 4.0).scale(frequencies), frequencies / 4)
    assert RopeScaling().scale(frequencies) is frequencies


def test_flops_count_the_heads_own_width():
    """Two layers of 4 heads of 12 channels at width 16; the head is the embedding."""
    llm = Qwen3Config(64, 16, 32, 2, 4, 2, head_width=12, tied=True)
    model = OwlConfig(None, None, llm)
    shapes, L = abstract_params(model), 10
    matrices = 2 * (16 * 12 * (4 + 2 + 2 + 4) + 3 * 16 * 32)
    attention = 2 * 2 * L * L * 4 * 12
    row = SequenceShape(L, MediaLengths(0, 0), 0)
    assert prefill_flops(model, shapes, row) == 2 * L * matrices + 2 * 64 * 16 + attention
    assert decode_flops(model, shapes, 50) == 2 * (matrices + 64 * 16) + 2 * 4 * 50 * 4 * 12
    assert llm.num_parameters() == matrices + 64 * 16
