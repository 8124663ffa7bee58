"""The built-in conversation formats by name, one file each (format.py is the interface)."""

from collections.abc import Mapping

from owl_jax.text.formats.chatml import CHATML
from owl_jax.text.formats.format import Format
from owl_jax.text.formats.llama2 import LLAMA2
from owl_jax.text.formats.llama3 import LLAMA3
from owl_jax.text.formats.owl import OWL
from owl_jax.text.formats.owl2 import OWL2
from owl_jax.text.formats.plain import PLAIN
from owl_jax.text.formats.vicuna import VICUNA_V1

FORMATS: Mapping[str, Format] = {
    format.name: format for format in (OWL, OWL2, VICUNA_V1, PLAIN, LLAMA2, CHATML, LLAMA3)
}
