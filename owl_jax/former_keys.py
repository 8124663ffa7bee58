"""Former config keys and what became of them, for error messages."""

from __future__ import annotations

_SYNTHETIC = (
    "no longer exists: the embedded data set is now a source in config.data.mixture, as in "
    "configs/demo/stage1.py: ((SyntheticSource({'vqa': 1.0}), 1.0),), or "
    "(('configs/demo/synthetic.py:vqa', 1.0),)"
)
_FORMER = {
    "data.synthetic": _SYNTHETIC,
    "data.synthetic_size": _SYNTHETIC,
    "accumulate": "is now config.gradient_accumulation_steps",
    "any_base": "is now config.allow_base_mismatch",
    "data.length": "is now config.data.sequence_length",
    "init.abstractor": "is now config.init.connector",
    "model.abstractor": "is now config.model.connector",
}


def replacement_of(key: str) -> str | None:
    """What became of a former key, such as "is now config.data.sequence_length".

    A key below a former one, such as model.abstractor.num_layers, names the new key in full. None
    for every other key.
    """
    names = key.split(".")
    for count in range(1, len(names) + 1):
        if change := _FORMER.get(".".join(names[:count])):
            below = names[count:] if change.startswith("is now") else []
            return ".".join([change, *below])
    return None
