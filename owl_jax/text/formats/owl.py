"""mPLUG-Owl's format.

Records and prompts are already in this format: text/conversation.py tokenises their text as the
original does.
"""

from owl_jax.text.formats.format import Format
from owl_jax.text.turns import SYSTEM

OWL = Format(
    name="owl",
    user=("\nHuman: ", ""),
    answer_mark="\nAI: ",
    default_system=SYSTEM,
    after_media="\nHuman: ",
    stops=("\nHuman:",),
    # In the original, the tokenizer's caller adds BOS.
    always_bos=True,
)
