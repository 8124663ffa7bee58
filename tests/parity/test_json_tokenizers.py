"""Tokenizers of the kinds of Llama 3, Qwen and Mistral: the ids of transformers for 500 texts each.

Mistral's tokenizer.json is read as its file says. transformers' own LlamaTokenizer class replaces
its normalizer, and drops a space at the beginning that SentencePiece keeps.
"""

import random

import pytest
import transformers
from small_tokenizers import LLAMA3_TOKENS, MISTRAL_TOKENS, QWEN_TOKENS, TEXTS, WRITERS

from owl_jax.text.tokenizer import load_tokenizer

PIECES = [
    *("owl", "The", " ", "  ", "   ", "\n", "\n\n", " \n", "\t", "\r\n", "\u00a0", "\u200d"),
    *("0", "7", "12345", "3.14", "don't", "'LL", "I'M", "x**2", "a" * 30, "://", ");", "=>"),
    *("é", "e\u0301", "ﬁ", "Å", "\u212b", "猫头鹰", "フクロウ", "Сова", "بومة", "नमस्ते"),
    *("😀", "👩‍👩‍👧", "🏳️‍🌈", "\U00012000", "▁", "Ġ", "<0x41>", "<", "|>", "<|", "</"),
    *LLAMA3_TOKENS,
    *QWEN_TOKENS,
    *MISTRAL_TOKENS,
    "<tool_call>",
]


def texts(seed: int) -> list[str]:
    draw = random.Random(seed)
    made = [*TEXTS, "", " ", "\n"]
    while len(made) < 500:
        pieces = draw.choices(PIECES, k=draw.randint(1, 25))
        made.append(draw.choice(["", " "]).join(pieces))
    return made


@pytest.mark.parametrize("kind", WRITERS)
def test_ids_are_those_of_transformers(kind, tmp_path):
    WRITERS[kind](tmp_path)
    ours = load_tokenizer(tmp_path)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    for text in texts(len(kind)):
        ids = ours.encode(text)
        assert ids == theirs.encode(text, add_special_tokens=False), text
        decoded = theirs.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        assert ours.decode(ids) == decoded
        bos = [ours.bos_id] if ours.adds_bos else []
        assert [*bos, *ids] == theirs.encode(text)
    assert (ours.bos_id, ours.eos_id) == (theirs.bos_token_id, theirs.eos_token_id)
    assert ours.vocab_size == len(theirs)
    assert ours.pad_id == (ours.eos_id if theirs.pad_token_id is None else theirs.pad_token_id)
    added = theirs.added_tokens_decoder
    special = {id: str(token) for id, token in added.items() if token.special}
    assert ours.special_tokens == special
    for token in theirs.all_special_tokens:
        assert ours.token_id(token) == theirs.convert_tokens_to_ids(token)
