"""Rematerialisation: which tensors of a layer are saved for the backward pass.

A policy is a name:

    none     saves everything
    dots     saves the results of matmuls, XLA's attention scores included
    minimal  saves the results of attention and of matmuls with weights; recomputes cheap operations
    full     saves only the layer's input

or a list of tensors to save, to use the memory that is left; all others are recomputed:

    save:query,key,value,context            saved on the device
    save:context;offload:input,gate,up      saved on the device; offloaded to host memory

`TENSORS` lists the names. The input of each layer is saved on the device unless it is offloaded.
With splash or blockwise attention, `context` includes all that the backward pass needs besides
query, key and value, so the forward kernel does not run again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NoReturn

import jax
from jax.ad_checkpoint import checkpoint_name

from owl_jax.errors import UserError

# What each tensor is, and its width. For LLaMA-7B in bfloat16, D, H * K and G * K are 8 KB per
# token and layer, F is 22 KB, and `minimal` saves 84 KB in all. Per KB saved, every tensor avoids
# about the same work.
TENSORS: Mapping[str, str] = {
    "input": "the layer's input, D",
    "query": "H * K, rotated",
    "key": "G * K, rotated",
    "value": "G * K",
    "context": "attention's result, H * K; for splash and blockwise also the scores' log-sum-exp",
    "attention": "attention's result after its output projection, D",
    "gate": "the gate projection of a gated MLP, F",
    "up": "the MLP's first projection, F",
    "mlp": "the input of the MLP's last projection, F",
    "temporal": "the two projections of the video release's convolutions, D / 2 and D",
    "lora": "the result of an adapter's first factor, R for each adapted projection",
}

Policy = Callable[..., Any]

_POLICIES = jax.checkpoint_policies
_NAMED: Mapping[str, Policy] = {
    "none": _POLICIES.everything_saveable,
    # JAX does not count attention kernels as dots, but they cost as much.
    "dots": _POLICIES.save_from_both_policies(
        _POLICIES.dots_saveable, _POLICIES.save_only_these_names("context")
    ),
    # Not dots_with_no_batch_dims_saveable: it would save the rotation's matmul, in float32.
    "minimal": _POLICIES.save_only_these_names(*(set(TENSORS) - {"input", "mlp"})),
    "full": _POLICIES.nothing_saveable,
}
NAMES = tuple(_NAMED)


def named(tensor: str, value: jax.Array) -> jax.Array:
    """Names `value` for policies. Raises ValueError for a name that is not in TENSORS."""
    if tensor not in TENSORS:
        raise ValueError(f"{tensor!r} is not in TENSORS")
    return checkpoint_name(value, tensor)


def policy(text: str) -> Policy:
    """Parses a policy for `jax.checkpoint`.

    Raises UserError for text that is not a policy, and for a tensor that is unknown or named twice.
    """

    def refuse(why: str) -> NoReturn:
        raise UserError(f"{text!r} is not a remat policy: {why}")

    if ":" not in text:
        if text not in _NAMED:
            example = '"save:query,context;offload:input"'
            refuse(f"expected one of {', '.join(NAMES)}, or tensors as in {example}")
        return _NAMED[text]
    chosen: dict[str, list[str]] = {"save": [], "offload": []}
    for part in text.split(";"):
        place, _, names = part.partition(":")
        if place.strip() not in chosen:
            refuse(f"{part!r} must begin with save: or offload:")
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
