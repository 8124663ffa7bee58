"""mPLUG-Owl's format, in which records and prompts are stored.

Their text needs no conversion: text/conversation.py tokenises it as the original does.
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
    # In the original, the caller of the tokenizer adds it.
    always_bos=True,
)
