"""Small tokenizer directories of the kinds that language models of today have, trained here.

Pre-tokenizers, special tokens and settings are those of the released models.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

TEXTS = [
    "The following is a conversation between a curious user and an assistant.",
    "You are a helpful assistant. user assistant system What do you see? An owl, asleep.",
    "It's 12345 o'clock; they'll say: \"don't\"\n\n\tdef f(x):\n        return x ** 2  # owl",
    "猫头鹰在睡觉。 Une chouette dort déjà; Eulen schlafen früh. Сова спит",
] * 4

# GPT-4's pattern with up to three digits (Llama 3) or one (Qwen) at a time.
_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}%s| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
LLAMA3_TOKENS = (
    *("<|begin_of_text|>", "<|end_of_text|>", "<|finetune_right_pad_id|>"),
    *("<|start_header_id|>", "<|end_header_id|>", "<|eom_id|>", "<|eot_id|>"),
)
QWEN_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
MISTRAL_TOKENS = ("<unk>", "<s>", "</s>", "[INST]", "[/INST]")


def _byte_level(pattern: str) -> Any:
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )


def _write(directory: Path, tokenizer: Tokenizer, config: dict[str, Any]) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(directory / "tokenizer.json"))
    decoder = {
        str(id): {
            "content": token.content,
            "lstrip": token.lstrip,
            "rstrip": token.rstrip,
            "normalized": token.normalized,
            "single_word": token.single_word,
            "special": token.special,
        }
        for id, token in tokenizer.get_added_tokens_decoder().items()
    }
    values = {"added_tokens_decoder": decoder, **config}
    (directory / "tokenizer_config.json").write_text(json.dumps(values))
    return directory


def write_llama3(directory: Path, size: int = 420) -> Path:
    """Llama 3: BOS by a template, <|eot_id|> ends turns, no padding."""
    tokenizer = Tokenizer(models.BPE(ignore_merges=True))
    tokenizer.pre_tokenizer = _byte_level(_PATTERN % "{1,3}")
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        TEXTS,
        trainers.BpeTrainer(
            vocab_size=size,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    tokenizer.add_special_tokens([AddedToken(t, normalized=False) for t in LLAMA3_TOKENS])
    bos = LLAMA3_TOKENS[0]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{bos} $A", special_tokens=[(bos, tokenizer.token_to_id(bos))]
    )
    config = {"bos_token": bos, "eos_token": "<|eot_id|>", "clean_up_tokenization_spaces": True}
    return _write(directory, tokenizer, {"tokenizer_class": "PreTrainedTokenizerFast", **config})


def write_qwen(directory: Path, size: int = 420) -> Path:
    """Qwen2: no BOS, <|im_end|> ends turns, <|endoftext|> pads; NFC."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = _byte_level(_PATTERN % "")
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        TEXTS,
        trainers.BpeTrainer(
            vocab_size=size,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    tokenizer.add_special_tokens([AddedToken(t, normalized=False) for t in QWEN_TOKENS])
    tokenizer.add_tokens([AddedToken("<tool_call>", normalized=False)])
    config = {
        "add_bos_token": False,
        "add_prefix_space": False,
        "bos_token": None,
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "unk_token": None,
        "errors": "replace",
        "split_special_tokens": False,
        "additional_special_tokens": ["<|im_start|>", "<|im_end|>"],
    }
    return _write(directory, tokenizer, {"tokenizer_class": "Qwen2Tokenizer", **config})


def write_mistral(directory: Path, size: int = 560) -> Path:
    """Mistral: SentencePiece's BPE with bytes as a tokenizer.json, <s> first, [INST] marks."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    special = [*MISTRAL_TOKENS, *(f"<0x{byte:02X}>" for byte in range(256))]
    lines = [line for text in TEXTS for line in text.split("\n") if line]
    # Trained by words, so that no piece spans two.
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace("▁", "first", split=True)
    tokenizer.train_from_iterator(
        lines, trainers.BpeTrainer(vocab_size=size, special_tokens=special, show_progress=False)
    )
    tokenizer.pre_tokenizer = None
    values = json.loads(tokenizer.to_str())
    values["added_tokens"] = [t for t in values["added_tokens"] if t["content"] in MISTRAL_TOKENS]
    tokenizer = Tokenizer.from_str(json.dumps(values))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", tokenizer.token_to_id("<s>"))]
    )
    config = {
        "add_bos_token": True,
        "add_eos_token": False,
        "bos_token": "<s>",
        "eos_token": "</s>",
        "pad_token": None,
        "unk_token": "<unk>",
    }
    return _write(directory, tokenizer, {"tokenizer_class": "PreTrainedTokenizerFast", **config})


def write_tekken(directory: Path, size: int = 420) -> Path:
    """Mistral Nemo: bytes, special tokens first, case-sensitive words."""
    upper, lower = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
    start = r"[^\r\n\p{L}\p{N}]?"
    pattern = (
        rf"{start}{upper}*{lower}+|{start}{upper}+{lower}*|\p{{N}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*"
        r"|\s*[\r\n]+|\s+(?!\S)|\s+"
    )
    tokenizer = Tokenizer(models.BPE(ignore_merges=True))
    tokenizer.pre_tokenizer = _byte_level(pattern)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        TEXTS,
        trainers.BpeTrainer(
            vocab_size=size,
            special_tokens=[AddedToken(t, normalized=False) for t in MISTRAL_TOKENS],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", tokenizer.token_to_id("<s>"))]
    )
    config = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    return _write(directory, tokenizer, {"tokenizer_class": "PreTrainedTokenizerFast", **config})


WRITERS = {
    "llama3": write_llama3,
    "qwen": write_qwen,
    "mistral": write_mistral,
    "tekken": write_tekken,
}
