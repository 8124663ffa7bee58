"""Llama 3's format (llama3/tokenizer.py, ChatFormat)."""

from owl_jax.text.formats.format import Format

LLAMA3 = Format(
    name="llama3",
    user=("<|start_header_id|>user<|end_header_id|>\n\n", "<|eot_id|>"),
    answer_mark="<|start_header_id|>assistant<|end_header_id|>\n\n",
    end="<|eot_id|>",
    system=("<|start_header_id|>system<|end_header_id|>\n\n", "<|eot_id|>"),
    tokens=("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
)
