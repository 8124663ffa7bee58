"""A conversation with a model in the terminal.

    python -m owl_jax.chat --model=DIR [--adapter=DIR] [--image=FILE ...] [--video=FILE]

asks for one question after the other; with --prompt=TEXT it answers that and ends. Pictures and
videos belong to the next question: each becomes a line before it, or stands where the question
itself says <image> or <|video|>.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import jax
from absl import flags

import owl_jax
from owl_jax import cli
from owl_jax.errors import UserError
from owl_jax.inference.engine import MAX_NEW_TOKENS, NUM_FRAMES, Owl
from owl_jax.inference.load import DTYPES
from owl_jax.processing.conversation import count_media
from owl_jax.processing.image import load_image
from owl_jax.processing.video import load_video

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
_SEED = flags.DEFINE_integer("seed", 0, "of the drawing")
_NUM_FRAMES = flags.DEFINE_integer("num_frames", NUM_FRAMES, "taken of each video", lower_bound=1)

HELP = """\
/image FILE  show a picture with the next question
/video FILE  show a video (file, GIF or folder of frames) with the next question
/reset       forget the conversation
/help        show this
/quit        leave (or Ctrl-D)"""


class Conversation:
    """What was said and shown so far, and what will be shown with the next question.

    sampling: keyword arguments of `Owl.chat`.
    """

    def __init__(self, owl: Owl, **sampling: Any):
        self._owl = owl
        self._sampling = sampling
        self.reset()

    def reset(self) -> None:
        """Forgets everything."""
        self._messages: list[dict[str, Any]] = []
        self._images: list[Any] = []
        self._videos: list[Any] = []
        self._pending: list[dict[str, str]] = []

    def show_image(self, path: str) -> None:
        """Adds a picture to the next question. Raises UserError if it cannot be read."""
        self._images.append(load_image(path))
        self._pending.append({"type": "image"})

    def show_video(self, path: str) -> None:
        """Adds a video to the next question. Raises UserError if it cannot be read."""
        load_video(path, 1, self._owl.config.vision.image_size)
        self._videos.append(path)
        self._pending.append({"type": "video"})

    def ask(self, question: str) -> Iterator[str]:
        """The answer as it comes. The question counts as asked when the answer is complete.

        Raises UserError as `Owl.chat`, before the first piece.
        """
        media = [] if any(count_media(question)) else self._pending
        message = {"role": "user", "content": [*media, {"type": "text", "text": question}]}
        messages = [*self._messages, message]
        answer = ""
        for piece in self._owl.chat(
            messages, self._images, self._videos, stream=True, **self._sampling
        ):
            answer += piece
            yield piece
        self._messages = [*messages, {"role": "assistant", "content": answer}]
        self._pending = []


def obey(command: str, conversation: Conversation) -> bool:
    """Carries out a slash command; False says to leave. Raises UserError for a wrong one."""
    name, _, argument = command.partition(" ")
    argument = argument.strip().strip("'\"")
    shows = {"/image": conversation.show_image, "/video": conversation.show_video}
    if name in shows:
        if not argument:
            raise UserError(f"{name} needs a file: {name} FILE")
        shows[name](argument)
    elif name == "/reset":
        conversation.reset()
        print("The conversation is forgotten.")
    elif name == "/help":
        print(HELP)
    elif name != "/quit":
        raise UserError(f"unknown command {name}; /help lists what there is")
    return name != "/quit"


def converse(conversation: Conversation) -> None:
    """Reads questions and commands until /quit, the end of the input or Ctrl-C."""
    with suppress(ImportError):
        import readline  # noqa: F401 - gives input() a history and arrow keys
    print("Ask a question; /help lists commands.")
    try:
        while True:
            line = input("Human: ").strip()
            try:
                if line.startswith("/"):
                    if not obey(line, conversation):
                        return
                elif line:
                    _print("AI: ", conversation.ask(line))
            except UserError as error:
                print(f"error: {error}")
    except (EOFError, KeyboardInterrupt):
        print()


def main(argv: list[str]) -> None:
    """Loads the model and answers."""
    del argv
    dtype = _DTYPE.value or ("float32" if jax.default_backend() == "cpu" else "bfloat16")
    owl = owl_jax.load(
        _MODEL.value, dtype, _ADAPTER.value, any_base=_ANY_BASE.value, verify=_VERIFY.value
    )
    conversation = Conversation(
        owl,
        max_new_tokens=_MAX_NEW_TOKENS.value,
        temperature=_TEMPERATURE.value,
        top_k=_TOP_K.value,
        top_p=_TOP_P.value,
        seed=_SEED.value,
        num_frames=_NUM_FRAMES.value,
    )
    for path in _IMAGE.value:
        conversation.show_image(path)
    for path in _VIDEO.value:
        conversation.show_video(path)
    if _PROMPT.value is None:
        converse(conversation)
    else:
        _print("", conversation.ask(_PROMPT.value))


def _print(start: str, pieces: Iterator[str]) -> None:
    """Prints a line piece by piece; nothing of it if the first piece fails."""
    for piece in pieces:
        print(f"{start}{piece}", end="", flush=True)
        start = ""
    print(start)


if __name__ == "__main__":
    cli.run(main)
