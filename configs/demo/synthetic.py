"""The embedded data set as a source file: configs/demo/synthetic.py:KIND=WEIGHT,KIND=WEIGHT

    python -m owl_jax.prepare --source=configs/demo/synthetic.py:vqa=4,text_facts --target=DIR

The default weight is 1. owl_jax/demo/synthetic.py lists the kinds.
"""

from owl_jax.demo.synthetic import SyntheticSource
from owl_jax.errors import UserError


def get_source(kinds: str = "") -> SyntheticSource:
    weights: dict[str, float] = {}
    for part in kinds.split(","):
        kind, _, weight = part.partition("=")
        try:
            weights[kind.strip()] = float(weight or 1)
        except ValueError:
            raise UserError(
                f"{kinds}: {weight!r} is not a number; expected KIND=WEIGHT,KIND=WEIGHT"
            ) from None
    return SyntheticSource(weights)
