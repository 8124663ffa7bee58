"""A conversation with a model in the terminal.

    python -m owl_jax.chat --model=DIR [--adapter=DIR] [--image=FILE ...] [--video=FILE]

prompts for one question after another; with --prompt=TEXT it answers that and exits. Pictures and
videos belong to the next question: each becomes a line before it, or replaces an <image> or
<|video|> in it. Ctrl-C stops an answer; its text so far stays in the conversation. Exiting waits
for the few tokens that the device is computing.
"""

from __future__ import annotations

import os
import signal

if __name__ == "__main__" and callable(_on_interrupt := signal.getsignal(signal.SIGINT)):
    # Until cli.run takes over, Ctrl-C would print a traceback of the imports.
    signal.signal(signal.SIGINT, lambda *_: os._exit(130))

from typing import TYPE_CHECKING, Any

from absl import flags

import owl_jax
from owl_jax import cli
from owl_jax.inference.arguments import (
    CACHE_DTYPES,
    DTYPES,
    MAX_NEW_TOKENS,
    NUM_FRAMES,
    whole_number,
)
from owl_jax.inference.typed_paths import local_path

if TYPE_CHECKING:
    from owl_jax.inference.dialogue import Conversation

_MODEL = flags.DEFINE_string(
    "model", None, "the model's directory, or ORG/NAME[@REVISION] on the hub", required=True
)
_ADAPTER = flags.DEFINE_string("adapter", None, "a LoRA adapter for the model, named like it")
_ANY_BASE = flags.DEFINE_bool("any_base", False, "accept an adapter of another base model")
_VERIFY = flags.DEFINE_bool("verify", False, "first check the files against their SHA256SUMS")
_PARTS = cli.define_parts_flag()
_CONVERSATION = flags.DEFINE_string(
    "conversation", None, "the conversation format, instead of the model's: a name or a Python file"
)
_IMAGE = flags.DEFINE_multi_string("image", [], "a picture; repeatable")
_VIDEO = flags.DEFINE_multi_string("video", [], "a video file, GIF or folder of frames; repeatable")
_PROMPT = flags.DEFINE_string("prompt", None, "answer this question and exit")
_DTYPE = flags.DEFINE_enum(
    "dtype", None, DTYPES, "dtype of the weights; by default float32 on a CPU, else bfloat16"
)
_CACHE_DTYPE = flags.DEFINE_enum(
    "cache_dtype", "auto", CACHE_DTYPES, "dtype of cached keys and values; auto: of the computation"
)
_MAX_NEW_TOKENS = flags.DEFINE_integer(
    "max_new_tokens", MAX_NEW_TOKENS, "tokens of the longest answer"
)
_TEMPERATURE = flags.DEFINE_float("temperature", 0.0, "0 is greedy decoding")
_TOP_K = flags.DEFINE_integer("top_k", None, "sample from the k most likely tokens")
_TOP_P = flags.DEFINE_float("top_p", None, "sample from the top tokens with this total probability")
_SEED = flags.DEFINE_integer("seed", 0, "seed of the sampler, 0 to 2**63 - 1")
_NUM_FRAMES = flags.DEFINE_integer("num_frames", NUM_FRAMES, "frames of each video, at most 1024")


def main(argv: list[str]) -> None:
    """Loads the model and answers."""
    del argv
    try:
        # Imports and JAX may swallow KeyboardInterrupt, and there is nothing to save yet.
        with cli.interrupts_end_at_once():
            from owl_jax.inference.terminal import converse, print_answer, readable

            conversation = _conversation()
        if _PROMPT.value is None:
            converse(conversation)
        else:
            print_answer("", conversation.ask(readable(_PROMPT.value)))
    finally:
        # The answers are complete; another Ctrl-C would only break JAX's shutdown.
        signal.signal(signal.SIGINT, signal.SIG_IGN)


def _conversation() -> Conversation:
    """Loads the model and starts a conversation, as the flags say."""
    import jax

    from owl_jax.inference.dialogue import Conversation
    from owl_jax.inference.given_media import MOST_FRAMES
    from owl_jax.inference.sampling import Sampling, check_seed

    sampling: dict[str, Any] = {
        "max_new_tokens": whole_number(_MAX_NEW_TOKENS.value, "--max_new_tokens", 1),
        "temperature": _TEMPERATURE.value,
        "top_k": _TOP_K.value,
        "top_p": _TOP_P.value,
        "seed": _SEED.value,
        "num_frames": whole_number(_NUM_FRAMES.value, "--num_frames", 1, MOST_FRAMES),
    }
    Sampling.of(_TEMPERATURE.value, _TOP_K.value, _TOP_P.value)
    check_seed(_SEED.value)
    dtype = _DTYPE.value or ("float32" if jax.default_backend() == "cpu" else "bfloat16")
    owl = owl_jax.load(
        _MODEL.value,
        dtype,
        _ADAPTER.value,
        any_base=_ANY_BASE.value,
        verify=_VERIFY.value,
        parts=_PARTS.value,
        conversation=_CONVERSATION.value,
        cache_dtype=_CACHE_DTYPE.value,
    )
    conversation = Conversation(owl, **sampling)
    for path in _IMAGE.value:
        conversation.show_images([local_path(path)])
    for path in _VIDEO.value:
        conversation.show_videos([local_path(path)])
    return conversation


if __name__ == "__main__":
    signal.signal(signal.SIGINT, _on_interrupt)
    cli.run(main)
