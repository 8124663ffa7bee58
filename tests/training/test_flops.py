"""Model work against sums made by hand.

The small model's products, by matrix (elements times positions that pass it), two operations each:
"""

import dataclasses

import pytest

from owl_jax.checkpoint.hf_import import abstract_params
from owl_jax.data.batch import SequenceShape
from owl_jax.models.config import OwlConfig
from owl_jax.models.connectors.abstractor import AbstractorConfig
from owl_jax.models.families.mplug_owl import LORA, variant
from owl_jax.models.language.bloom import BloomConfig
from owl_jax.models.language.llama import LlamaConfig
from owl_jax.models.lora import LoraConfig
from owl_jax.models.vision.clip import ClipConfig
from owl_jax.text.media_index import MediaLengths
from owl_jax.training.flops import decode_flops, prefill_flops, training_flops
from owl_jax.training.partition import assign

SMALL = OwlConfig(
    vision=ClipConfig(image_size=16, patch_size=8, hidden_size=16, intermediate_size=32,
                        num_layers=1, num_heads=2),
    connector=AbstractorConfig(num_query_tokens=3, hidden_size=16, mlp_size=24, num_layers=1,
                                num_heads=2),
    llm=LlamaConfig(vocab_size=64, hidden_size=16, intermediate_size=32, num_layers=2,
                    num_heads=2, num_kv_heads=2),
    lora=LoraConfig(rank=2, targets=("q_proj",)),
)  # fmt: skip
L, PATCHES, QUERIES = 10, 4, 3

# Vision: patches of 8 x 8 x 3 numbers, then one layer over patches and the class token.
PATCH_EMBED = 2 * PATCHES * 192 * 16
VISION_LAYER = 2 * (PATCHES + 1) * (16 * 48 + 16 * 16 + 2 * 16 * 32)
VISION_ATTENTION = 4 * (PATCHES + 1) ** 2 * 16
# Abstractor: key and value see queries and image tokens.
ABSTRACTOR = 2 * (
    QUERIES * (2 * 16 * 16 + 3 * 16 * 24 + 16 * 16) + 2 * (QUERIES + PATCHES + 1) * 16 * 16
)
ABSTRACTOR_ATTENTION = 4 * QUERIES * (QUERIES + PATCHES + 1) * 16
# The language model: two layers and the head; attention is causal.
LLM = 2 * L * (2 * (4 * 16 * 16 + 3 * 16 * 32) + 16 * 64)
LLM_ATTENTION = 2 * 2 * L * L * 16
ADAPTER = 2 * L * 2 * (16 * 2 + 2 * 16)

PICTURE = SequenceShape(L, MediaLengths(QUERIES + 1, QUERIES + 1), 16, image_slots=1)
WORDS = SequenceShape(L, MediaLengths(QUERIES + 1, QUERIES + 1), 16)


def flops(model, rules, row=PICTURE):
    shapes = abstract_params(model)
    labels = assign(shapes, rules, {"recipe"})
    return training_flops(model, shapes, labels, row)


def test_all_frozen_is_the_forward_pass():
    forward = (
        PATCH_EMBED + VISION_LAYER + VISION_ATTENTION + ABSTRACTOR + ABSTRACTOR_ATTENTION
        + LLM + LLM_ATTENTION + ADAPTER
    )  # fmt: skip
    assert flops(SMALL, [(".*", "frozen")]) == forward
    assert flops(SMALL, [(".*", "frozen")], WORDS) == LLM + LLM_ATTENTION + ADAPTER


def test_stage_2_costs_the_language_model_no_weight_gradients():
    rules = [("(lora|connector)/.*", "recipe"), (".*", "frozen")]
    assert flops(SMALL, rules) == (
        PATCH_EMBED + VISION_LAYER + VISION_ATTENTION
        + 3 * (ABSTRACTOR + ABSTRACTOR_ATTENTION)
        + 2 * LLM + 3 * LLM_ATTENTION + 3 * ADAPTER
    )  # fmt: skip


def test_an_adapter_alone_leaves_all_before_it_forward_only():
    rules = [("lora/.*", "recipe"), (".*", "frozen")]
    assert flops(SMALL, rules) == (
        PATCH_EMBED + VISION_LAYER + VISION_ATTENTION + ABSTRACTOR + ABSTRACTOR_ATTENTION
        + 2 * LLM + 3 * LLM_ATTENTION + 3 * ADAPTER
    )  # fmt: skip


def test_all_trained_is_three_times_the_forward_pass():
    assert flops(SMALL, [(".*", "recipe")]) == 3 * flops(SMALL, [(".*", "frozen")])


def test_a_trained_bias_needs_the_gradients_of_all_after_it():
    rules = [("vision/layers/qkv/bias", "recipe"), (".*", "frozen")]
    assert flops(SMALL, rules) == (
        2 * (PATCH_EMBED + VISION_LAYER + ABSTRACTOR + LLM + ADAPTER)
        + 3 * (VISION_ATTENTION + ABSTRACTOR_ATTENTION + LLM_ATTENTION)
    )  # fmt: skip


def test_the_7b_costs_4n_a_token_frozen_and_6n_trained():
    """N without the word embeddings, which are looked up: 6,607,077,376 = 32 x 202,375,168 of the
    layers' matrices + 131,072,000 of the head."""
    N, tokens = 6_607_077_376, 2_048
    attention = 32 * 2 * 4_096 * tokens**2  # forward, causal
    model = variant("llama")
    words = SequenceShape(tokens, model.media_lengths(), 224)
    frozen = flops(model, [("connector/.*", "recipe"), (".*", "frozen")], words)
    assert frozen == 4 * N * tokens + 3 * attention
    trained = flops(model, [("llm/.*", "recipe"), (".*", "frozen")], words)
    assert trained == 6 * N * tokens + 3 * attention


def test_a_picture_of_the_7b_costs_its_vision_tower():
    """ViT-L/14: 24 layers of 12 x 1024^2 over 257 tokens, and the patches'."""
    model = dataclasses.replace(variant("llama"), lora=LORA["llama"])
    rules = [("lora/.*", "recipe"), (".*", "frozen")]
    without, one, three = (
        flops(model, rules, SequenceShape(2_048, model.media_lengths(), 224, image_slots=slots))
        for slots in (0, 1, 3)
    )
    vision = 2 * 257 * 24 * 12 * 1024**2 + 2 * 256 * 588 * 1024 + 4 * 24 * 1024 * 257**2
    abstractor = 2 * (6 * (64 * (2 * 1024**2 + 3 * 1024 * 2816) + 2 * 321 * 1024**2))
    abstractor += 2 * 64 * 1024 * 4096 + 4 * 6 * 1024 * 64 * 321
    assert one - without == vision + abstractor
    assert three - without == 3 * (one - without)


def test_a_video_passes_its_frames_and_its_own_queries():
    model = dataclasses.replace(
        SMALL,
        vision=dataclasses.replace(SMALL.vision, temporal=True),
        connector=dataclasses.replace(SMALL.connector, temporal=True),
        lora=None,
    )
    frames = 2
    video = SequenceShape(
        L, MediaLengths(QUERIES + 1, QUERIES + 1), 16, video_slots=1, frames=frames
    )
    convolutions = 2 * frames * PATCHES * (2 * 16 * 8 + 3 * 8)
    queries, seen = 2 * QUERIES, frames * (PATCHES + 1)
    abstractor = 2 * (
        queries * (2 * 16 * 16 + 3 * 16 * 24) + 2 * (queries + seen) * 16 * 16
        + 2 * QUERIES * 16 * 16
    ) + 4 * queries * (queries + seen) * 16  # fmt: skip
    assert flops(model, [(".*", "frozen")], video) == (
        frames * (PATCH_EMBED + VISION_LAYER + VISION_ATTENTION) + convolutions + abstractor
        + LLM + LLM_ATTENTION
    )  # fmt: skip
    assert flops(model, [(".*", "frozen")]) == flops(
        dataclasses.replace(SMALL, lora=None), [(".*", "frozen")]
    )


def test_bloom_s_words_are_its_head():
    model = OwlConfig(
        vision=SMALL.vision,
        connector=SMALL.connector,
        llm=BloomConfig(vocab_size=64, hidden_size=16, num_layers=2, num_heads=2),
    )
    layer = 16 * 48 + 16 * 16 + 2 * 16 * 64
    expected = 2 * L * (2 * layer + 16 * 64) + LLM_ATTENTION
    assert flops(model, [(".*", "frozen")], WORDS) == expected


def test_reading_a_prompt_makes_logits_once():
    shapes = abstract_params(SMALL)
    whole = flops(SMALL, [(".*", "frozen")])
    assert prefill_flops(SMALL, shapes, PICTURE) == whole - 2 * 16 * 64 * (L - 1)


def test_a_new_token_attends_to_the_whole_cache():
    shapes = abstract_params(SMALL)
    expected = (LLM + ADAPTER) / L + 2 * 4 * 50 * 16
    assert decode_flops(SMALL, shapes, slots=50) == pytest.approx(expected)
