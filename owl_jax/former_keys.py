"""Former config keys and their replacements, for error messages."""

from __future__ import annotations

_SYNTHETIC = (
    "the embedded data set is a source of config.data.mixture, as in configs/demo/stage1.py: "
    "((SyntheticSource({'vqa': 1.0}), 1.0),), or (('configs/demo/synthetic.py:vqa', 1.0),)"
)
_FORMER = {
    "data.synthetic": _SYNTHETIC,
    "data.synthetic_size": _SYNTHETIC,
    "accumulate": "config.gradient_accumulation_steps",
    "any_base": "config.allow_base_mismatch",
    "data.length": "config.data.sequence_length",
    "init.abstractor": "config.init.connector",
    "model.abstractor": "config.model.connector",
}


def replacement_of(key: str) -> str | None:
    """The replacement of a former key or of a key below one; None for other keys."""
    names = key.split(".")
    prefixes = (".".join(names[: count + 1]) for count in range(len(names)))
    return next((_FORMER[prefix] for prefix in prefixes if prefix in _FORMER), None)
