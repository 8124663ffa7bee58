"""mPLUG-Owl2's format: Vicuna's without a system message; media directly before the text."""

from owl_jax.text.formats.format import Format

OWL2 = Format(
    name="owl2",
    user=("USER: ", " "),
    answer_mark="ASSISTANT:",
    answer=(" ", ""),
    system=("", " "),
    after_media="",
    stops=("\nUSER:", " USER:"),
)
