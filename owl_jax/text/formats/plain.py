"""Plain: media and text without roles, for captions in LLaVA-1.5's first stage.

Captions end with EOS here, but with a newline in LLaVA (conversation.py, conv_llava_plain).
"""

from owl_jax.text.formats.format import Format

PLAIN = Format(name="plain", user=("", ""), answer_mark="", after_media="")
