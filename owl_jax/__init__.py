"""mPLUG-Owl in JAX: train, fine-tune and talk to a multimodal language model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from owl_jax.version import __version__ as __version__

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from jax.sharding import Mesh

    from owl_jax.inference.api import Owl


def load(
    path: str | Path,
    dtype: Any = "bfloat16",
    adapter: str | Path | None = None,
    mesh: Mesh | None = None,
    any_base: bool = False,
    verify: bool = False,
    parts: Sequence[str | Path] = (),
    conversation: str | Path | None = None,
    adapters: Mapping[str, str | Path] | None = None,
    cache_dtype: str = "auto",
) -> Owl:
    """Loads a model.

    Args:
      path: a directory that owl_jax wrote, or a Hugging Face directory of mPLUG-Owl, mPLUG-Owl2,
        LLaVA-1.5 or a plain language model (text only): config.json, *.safetensors or
        pytorch_model*.bin and, for chat, tokenizer files. LLaVA-1.5 is read in transformers' form
        and in the authors', which needs the directory of the vision tower beside it.
      dtype: of weights and computation, "bfloat16" or "float32". "int8" stores the language
        model's projections in int8, with a scale for each output channel, and uses bfloat16 for
        everything else. A CPU always computes in float32.
      adapter: a directory with a LoRA adapter for the model, from PEFT or owl_jax.
      mesh: devices to shard the weights over (owl_jax.parallel.mesh.make_mesh); one device by
        default. Each process reads only what its devices hold.
      any_base: accept an adapter that was trained on another base.
      verify: first compare every file, including the adapter's, with the SHA256SUMS that owl_jax
        writes into each directory. This reads everything once more (times in docs/weights.md).
      parts: your own Python files that define parts of the model (docs/add_a_connector.md). The
        directory does not name them: loading it must not run its code.
      conversation: replaces the conversation format that the directory names; a format's name,
        or a Python file (docs/add_a_conversation_format.md).
      adapters: {name: directory} of several adapters at once; the requests of an engine
        (owl_jax.inference.engine) choose among them, and share batches.
      cache_dtype: of the keys and values of past tokens: "auto", that of the computation, or
        "int8", with a scale for each token and head, in about half of bfloat16's memory. `logits`
        then has the rounding of int8 too.

    Returns: an object with `config`, `params`, `logits`, `generate`, `chat` and `save`.
    Raises owl_jax.errors.UserError for files that are missing, damaged or mismatched.
    """
    # Imported here, so that `import owl_jax` does not start JAX.
    from owl_jax.inference.load import load_owl

    return load_owl(
        path,
        dtype,
        adapter,
        mesh,
        any_base,
        verify,
        parts,
        conversation,
        adapters,
        cache_dtype,
    )
