"""Vicuna v1: LLaVA-1.5's format (fastchat/conversation.py, vicuna_v1.1)."""

from owl_jax.text.formats.format import Format

VICUNA_V1 = Format(
    name="vicuna_v1",
    user=("USER: ", " "),
    answer_mark="ASSISTANT:",
    answer=(" ", ""),
    system=("", " "),
    default_system=(
        "A chat between a curious user and an artificial intelligence assistant. The assistant "
        "gives helpful, detailed, and polite answers to the user's questions."
    ),
    stops=("\nUSER:", " USER:"),
)
