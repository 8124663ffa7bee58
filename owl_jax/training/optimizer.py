"""Recipes: how each trainable partition is optimized.

A recipe is AdamW, or Muon for matrices, with a learning-rate schedule. The optimizer gets only the
trainable tree: moments and the clipped gradient norm cover trainable leaves only.

Weight decay skips biases, norm scales and every other leaf of rank one, like Hugging Face's Trainer
in the original's script (pipeline/train.py; transformers.Trainer.get_decay_parameter_names). Below
a path component "layers", axis 0 stacks the layers and does not count towards the rank. A bias may
have a head axis, float32[H, K], so names are checked as well as ranks.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from optax import contrib

from owl_jax.errors import UserError

SCHEDULES = ("cosine", "linear", "constant")
DTYPES = ("float32", "bfloat16")
OPTIMIZERS = ("adamw", "muon")
RATE_PREFIX = "learning_rate/"  # of each recipe's metric

# RMS of Muon's update per unit of learning rate. It is about AdamW's, so both can use the same
# learning rate (arXiv 2502.16982, section 2.2).
_MUON_RMS = 0.2
# Kernels [H, K, D] that contract their first two axes; all others contract the first.
_OUTPUT_PROJECTIONS = ("o_proj", "out", "dense")


@dataclass(frozen=True)
class Recipe:
    """How one partition is trained.

    Attributes:
      learning_rate: the peak, reached after the warm-up.
      optimizer: "adamw", or "muon" (arXiv 2502.16982) for the kernels of the layers and AdamW for
        the recipe's other parameters: embeddings, heads, LoRA factors, vectors.
      schedule: "cosine" or "linear" from the peak to `final_learning_rate`, or "constant".
      warmup_steps: steps of linear warm-up from zero.
      final_learning_rate: the rate at the last step (the original's --min-lr).
      weight_decay: decoupled, multiplied by the learning rate (AdamW, arXiv 1711.05101).
      b1, b2, eps: Adam's (arXiv 1412.6980); PyTorch's defaults. Muon's momentum is 0.95.
      dtype: of the master weights and the moments.

    Raises:
      UserError: an invalid value.
    """

    learning_rate: float
    optimizer: str = "adamw"
    schedule: str = "cosine"
    warmup_steps: int = 0
    final_learning_rate: float = 0.0
    weight_decay: float = 0.0
    b1: float = 0.9
    b2: float = 0.999
    eps: float = 1e-8
    dtype: str = "float32"

    def __post_init__(self) -> None:
        for name, known in (
            ("optimizer", OPTIMIZERS),
            ("schedule", SCHEDULES),
            ("dtype", DTYPES),
        ):
            if getattr(self, name) not in known:
                raise UserError(
                    f"a recipe has {name}={getattr(self, name)!r}; expected one of "
                    f"{', '.join(known)}"
                )
        for name in ("learning_rate", "warmup_steps", "final_learning_rate", "weight_decay"):
            if getattr(self, name) < 0:
                raise UserError(f"a recipe has {name}={getattr(self, name)}; expected 0 or more")
        if self.schedule != "constant" and self.final_learning_rate > self.learning_rate:
            raise UserError(
                f"final_learning_rate={self.final_learning_rate} is above "
                f"learning_rate={self.learning_rate}; lower it"
            )


def schedule(recipe: Recipe, total_steps: int) -> optax.Schedule:
    """The learning rate as a function of the number of steps already taken.

    With a warm-up it is zero at step 0 and the peak at `warmup_steps`. From `total_steps` on it is
    `final_learning_rate`.

    Raises:
      UserError: the warm-up is as long as the run, or longer.
    """
    decay_steps = total_steps - recipe.warmup_steps
    if decay_steps < 1:
        raise UserError(
            f"warmup_steps={recipe.warmup_steps} is not below the {total_steps} steps of the "
            "training; lower --config.recipes.NAME.warmup_steps or train longer"
        )
    peak = recipe.learning_rate
    final = recipe.final_learning_rate
    if recipe.schedule == "cosine":
        after = optax.cosine_decay_schedule(peak, decay_steps, alpha=final / peak if peak else 0.0)
    elif recipe.schedule == "linear":
        after = optax.linear_schedule(peak, final, decay_steps)
    else:
        after = optax.constant_schedule(peak)
    if not recipe.warmup_steps:
        return after
    warmup = optax.linear_schedule(0.0, peak, recipe.warmup_steps)
    return optax.join_schedules([warmup, after], [recipe.warmup_steps])


def make_optimizer(
    recipes: Mapping[str, Recipe],
    labels: Mapping[str, Any],
    total_steps: int,
    clip_norm: float | None,
) -> optax.GradientTransformation:
    """The optimizer of the trainable tree.

    Args:
      recipes: by name.
      labels: recipe names of the trainable leaves.
      total_steps: optimizer steps of the whole run.
      clip_norm: maximum global norm of the gradient, or None.

    Raises:
      UserError: nothing is trainable, or a warm-up does not fit into `total_steps`.
    """
    if not jax.tree.leaves(labels):
        raise UserError("every parameter is frozen; give at least one pattern a recipe")
    transforms = {name: _transform(recipe, total_steps) for name, recipe in recipes.items()}
    optimizer = optax.multi_transform(transforms, labels)
    if clip_norm is None:
        return optimizer
    return optax.chain(optax.clip_by_global_norm(clip_norm), optimizer)


def _transform(recipe: Recipe, total_steps: int) -> optax.GradientTransformation:
    rate = schedule(recipe, total_steps)
    adamw = optax.adamw(
        rate,
        b1=recipe.b1,
        b2=recipe.b2,
        eps=recipe.eps,
        weight_decay=recipe.weight_decay,
        mask=decayed,
    )
    if recipe.optimizer == "adamw":
        return adamw
    muon = contrib.muon(
        rate,
        weight_decay=recipe.weight_decay,
        consistent_rms=_MUON_RMS,
        muon_weight_dimension_numbers=matrices,
    )

    def label(params: Any) -> Any:
        return jax.tree.map(
            lambda axes: "adamw" if axes is None else "muon", matrices(params), is_leaf=_is_axes
        )

    return optax.multi_transform({"adamw": adamw, "muon": muon}, label)


def matrices(params: Any) -> Any:
    """The input and output axes of each layer kernel, for Muon; None for other leaves.

    Layers are stacked on axis 0, and each is a separate matrix; a fused projection is one matrix.
    A temporal convolution is depthwise and so has no matrix.
    """

    def of_leaf(path: tuple[Any, ...], leaf: Any) -> contrib.MuonDimensionNumbers | None:
        names = [key.key for key in path]
        if names[-1] != "kernel" or "layers" not in names or names[-2] == "temporal":
            return None
        output = 3 if names[-2] in _OUTPUT_PROJECTIONS else 2
        return contrib.MuonDimensionNumbers(
            tuple(range(1, output)), tuple(range(output, len(leaf.shape)))
        )

    return jax.tree_util.tree_map_with_path(of_leaf, params)


def _is_axes(value: Any) -> bool:
    return value is None or isinstance(value, contrib.MuonDimensionNumbers)


def decayed(params: Any) -> Any:
    """The weight-decay mask, a tree of bools. Rule and source are at the top of the file."""

    def of_leaf(path: tuple[Any, ...], leaf: Any) -> bool:
        names = [key.key for key in path]
        rank = len(leaf.shape) - ("layers" in names)
        return rank > 1 and names[-1] not in ("bias", "scale")

    return jax.tree_util.tree_map_with_path(of_leaf, params)


def learning_rates(
    recipes: Mapping[str, Recipe], total_steps: int, step: int | jax.Array
) -> dict[str, jax.Array]:
    """{"learning_rate/<recipe>": float32[]} of the update after `step` steps."""
    return _learning_rates(tuple(recipes.items()), total_steps, step)


# Jitted as one program: otherwise each operation of a schedule is compiled separately.
@partial(jax.jit, static_argnums=(0, 1))
def _learning_rates(
    recipes: tuple[tuple[str, Recipe], ...], total_steps: int, step: int | jax.Array
) -> dict[str, jax.Array]:
    return {
        f"{RATE_PREFIX}{name}": jnp.asarray(schedule(recipe, total_steps)(step), jnp.float32)
        for name, recipe in recipes
    }
