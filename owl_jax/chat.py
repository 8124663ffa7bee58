"""A conversation with a model in the terminal.

    python -m owl_jax.chat --model=DIR [--adapter=DIR] [--image=FILE ...] [--video=FILE]

asks for one question after the other; with --prompt=TEXT it answers that and ends. Pictures and
videos belong to the next question: each becomes a line before it, or stands where the question
itself says <image> or <|video|>. Ctrl-C ends an answer; what it said so far stays in the
conversation. Leaving waits until the device has finished the few tokens that it is at.
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
    DTYPES,
    MAX_NEW_TOKENS,
    NUM_FRAMES,
    whole_number,
)
from owl_jax.inference.typed_paths import local_path

if TYPE_CHECKING:
    from owl_jax.inference.dialogue import Conversation

_MODEL = flags.DEFINE_string("model", None, "the model's directory", required=True)
_ADAPTER = flags.DEFINE_string("adapter", None, "directory of a LoRA adapter for the model")
_ANY_BASE = flags.DEFINE_bool("any_base", False, "take the adapter though it has another base")
_VERIFY = flags.DEFINE_bool("verify", False, "first compare the files with their SHA256SUMS")
_IMAGE = flags.DEFINE_multi_string("image", [], "a picture; may be given several times")
_VIDEO = flags.DEFINE_multi_string("video", [], "a video file, GIF or folder of frames; likewise")
_PROMPT = flags.DEFINE_string("prompt", None, "answer this question and end")
_DTYPE = flags.DEFINE_enum(
    "dtype", None, DTYPES, "of the weights; by default float32 on a CPU, bfloat16 elsewhere"
)
_MAX_NEW_TOKENS = flags.DEFINE_integer("max_new_tokens", MAX_NEW_TOKENS, "longest answer")
_TEMPERATURE = flags.DEFINE_float("temperature", 0.0, "0 takes the likeliest token")
_TOP_K = flags.DEFINE_integer("top_k", None, "draw from the k likeliest tokens")
_TOP_P = flags.DEFINE_float("top_p", None, "draw from the likeliest with this probability together")
_SEED = flags.DEFINE_integer("seed", 0, "of the drawing: 0 to 2**63 - 1")
_NUM_FRAMES = flags.DEFINE_integer("num_frames", NUM_FRAMES, "taken of each video, at most 1024")


def main(argv: list[str]) -> None:
    """Loads the model and answers."""
    del argv
    try:
        # What Ctrl-C raises may be lost in the imports and in JAX, and there is nothing to save.
        with cli.interrupts_end_at_once():
            from owl_jax.inference.terminal import converse, print_answer, readable

            conversation = _conversation()
        if _PROMPT.value is None:
            converse(conversation)
        else:
            print_answer("", conversation.ask(readable(_PROMPT.value)))
    finally:
        # No answer is under way any more; another Ctrl-C would only break what JAX puts in order.
        signal.signal(signal.SIGINT, signal.SIG_IGN)


def _conversation() -> Conversation:
    """The beginning of a conversation as the flags ask for it."""
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
        _MODEL.value, dtype, _ADAPTER.value, any_base=_ANY_BASE.value, verify=_VERIFY.value
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
