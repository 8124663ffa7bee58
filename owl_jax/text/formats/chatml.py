"""ChatML, as Qwen2 and Qwen2.5 write it."""

from owl_jax.text.formats.format import Format

CHATML = Format(
    name="chatml",
    user=("<|im_start|>user\n", "<|im_end|>\n"),
    answer_mark="<|im_start|>assistant\n",
    end="<|im_end|>",
    after_end="\n",
    system=("<|im_start|>system\n", "<|im_end|>\n"),
    default_system="You are a helpful assistant.",
    tokens=("<|im_start|>", "<|im_end|>"),
)
