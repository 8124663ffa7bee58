"""mPLUG-Owl in JAX: train, fine-tune and talk to a multimodal language model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    from jax.sharding import Mesh

    from owl_jax.inference.engine import Owl

__version__ = "0.1.0"


def load(
    path: str | Path,
    dtype: Any = "bfloat16",
    adapter: str | Path | None = None,
    mesh: Mesh | None = None,
    any_base: bool = False,
    verify: bool = False,
) -> Owl:
    """Loads a model.

    Args:
      path: a Hugging Face directory of any released mPLUG-Owl (config.json, *.safetensors or
        pytorch_model*.bin and, for chat, tokenizer files), or a directory that owl_jax wrote.
      dtype: "bfloat16" or "float32", of the weights and, but on a CPU, which has float32 only, of
        the computation; or "int8" for the weights of the language model's projections, with a scale
        for each output channel, and bfloat16 for the rest.
      adapter: a directory with a LoRA adapter for the model, PEFT's or one that owl_jax wrote.
      mesh: devices to spread the weights over (owl_jax.parallel.mesh.make_mesh); one device by
        default. Each process reads only what its devices hold.
      any_base: take the adapter though it was trained on another base.
      verify: first compare every file, of the adapter too, with the directory's SHA256SUMS, which
        owl_jax writes; it reads everything once more (docs/weights.md says what that takes).

    Returns: an object with `config`, `params`, `logits`, `generate`, `chat` and `save`.
    Raises owl_jax.errors.UserError for what is missing, damaged or does not fit.
    """
    # Imported here, so that `import owl_jax` does not start JAX.
    from owl_jax.inference.load import load_owl

    return load_owl(path, dtype, adapter, mesh, any_base, verify)
