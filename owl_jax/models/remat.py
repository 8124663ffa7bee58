"""What the backward pass finds in memory of a layer, and what it computes again.

A policy is a name:

    none     everything is kept
    dots     what matrix products give, XLA's attention scores among them
    minimal  what products with weights give, and attention: only what is cheap is computed again
    full     the layer's input alone

or a choice of tensors, to fill what memory is left; those that it does not name are computed again:

    save:query,key,value,context            kept on the device
    save:context;offload:input,gate,up      kept on the device, kept in the host's memory

`TENSORS` are the names. The input of each layer is kept on the device unless it is offloaded. With
splash or blockwise attention, keeping `context` keeps all that its backward pass needs of the
forward kernel besides query, key and value, so that it does not run again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NoReturn

import jax
from jax.ad_checkpoint import checkpoint_name

from owl_jax.errors import UserError

# Each with its width. In the bfloat16 of LLaMA-7B, D, H * K and G * K are 8 KB a token and layer, F
# is 22 KB: all of `minimal` 84 KB. A KB spares about the same work wherever it is spent.
TENSORS: Mapping[str, str] = {
    "input": "of the layer, D",
    "query": "H * K, rotated",
    "key": "G * K, rotated",
    "value": "G * K",
    "context": "what attention gives, H * K; of splash and blockwise the scores' log-sum-exp, too",
    "attention": "the output projection of attention, D",
    "gate": "of a gated MLP, F",
    "up": "the MLP's first projection, F",
    "mlp": "what the MLP's last projection takes, F",
    "temporal": "the two projections of the video release's convolutions, D / 2 and D",
    "lora": "what stands between an adapter's two factors, R for each adapted projection",
}

Policy = Callable[..., Any]

_POLICIES = jax.checkpoint_policies
_NAMED: Mapping[str, Policy] = {
    "none": _POLICIES.everything_saveable,
    # Kernels of whole rows are no dots to JAX, but as dear as one.
    "dots": _POLICIES.save_from_both_policies(
        _POLICIES.dots_saveable, _POLICIES.save_only_these_names("context")
    ),
    # Not dots_with_no_batch_dims_saveable: the rotation of query and key is such a dot, in float32.
    "minimal": _POLICIES.save_only_these_names(*(set(TENSORS) - {"input", "mlp"})),
    "full": _POLICIES.nothing_saveable,
}
NAMES = tuple(_NAMED)


def named(tensor: str, value: jax.Array) -> jax.Array:
    """`value`, known to policies as `tensor`, one of TENSORS."""
    if tensor not in TENSORS:
        raise ValueError(f"{tensor!r} is not in TENSORS")
    return checkpoint_name(value, tensor)


def policy(text: str) -> Policy:
    """The policy that `text` describes, for `jax.checkpoint`.

    Raises UserError for what is no policy, or names a tensor that is unknown or named twice.
    """

    def refuse(why: str) -> NoReturn:
        raise UserError(f"{text!r} is no remat policy: {why}")

    if ":" not in text:
        if text not in _NAMED:
            example = '"save:query,context;offload:input"'
            refuse(f"expected one of {', '.join(NAMES)}, or tensors as in {example}")
        return _NAMED[text]
    chosen: dict[str, list[str]] = {"save": [], "offload": []}
    for part in text.split(";"):
        place, _, names = part.partition(":")
        if place.strip() not in chosen:
            refuse(f"{part!r} should begin with save: or offload:")
        chosen[place.strip()] += [name.strip() for name in names.split(",")]
    tensors = chosen["save"] + chosen["offload"]
    for name in tensors:
        if name not in TENSORS:
            refuse(f"unknown tensor {name!r}; choose from {', '.join(TENSORS)}")
        if tensors.count(name) > 1:
            refuse(f"it names {name!r} twice")
    if not chosen["offload"]:
        return _POLICIES.save_only_these_names(*tensors)
    return _POLICIES.save_and_offload_only_these_names(
        names_which_can_be_saved=chosen["save"],
        names_which_can_be_offloaded=chosen["offload"],
        offload_src="device",
        offload_dst="pinned_host",
    )
