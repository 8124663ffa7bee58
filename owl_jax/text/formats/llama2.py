"""LLaMA-2 chat: [INST] around questions, and a BOS before each (llama/generation.py)."""

from owl_jax.text.formats.format import Format

LLAMA2 = Format(
    name="llama2",
    user=("[INST] ", " [/INST]"),
    answer_mark="",
    answer=(" ", " "),
    system=("<<SYS>>\n", "\n<</SYS>>\n\n"),
    system_in_user=True,
    between="<s>",
    tokens=("<s>",),
    reserved=("[INST]", "[/INST]", "<<SYS>>", "<</SYS>>"),
    stops=("[INST]",),
)
