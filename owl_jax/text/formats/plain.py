"""Plain: media and text, no roles. LLaVA-1.5's first stage reads captions so.

The authors end a caption with a new line instead of EOS (LLaVA, conversation.py, conv_llava_plain).
"""

from owl_jax.text.formats.format import Format

PLAIN = Format(name="plain", user=("", ""), answer_mark="", after_media="")
