"""Keys that configs had once, and what took their place: said instead of "unknown key"."""

from __future__ import annotations

_EMBEDDED = (
    "the embedded data set is a source of config.data.mixture, as in configs/demo/stage1.py: "
    "((SyntheticSource({'vqa': 1.0}), 1.0),), or (('configs/demo/synthetic.py:vqa', 1.0),)"
)
_FORMER = {
    "data.synthetic": _EMBEDDED,
    "data.synthetic_size": _EMBEDDED,
    "accumulate": "config.gradient_accumulation_steps",
    "any_base": "config.allow_base_mismatch",
    "data.length": "config.data.sequence_length",
    "init.abstractor": "config.init.connector",
    "model.abstractor": "config.model.connector",
}


def in_its_place(key: str) -> str | None:
    """What to write instead of `key` ("data.synthetic", "data.synthetic.vqa"), or None."""
    parts = key.split(".")
    heads = (".".join(parts[: count + 1]) for count in range(len(parts)))
    return next((_FORMER[head] for head in heads if head in _FORMER), None)
