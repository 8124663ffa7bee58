"""A conversation with a model in the terminal.

    python -m owl_jax.chat --model=DIR [--adapter=DIR] [--image=FILE ...] [--video=FILE]

asks for one question after the other; with --prompt=TEXT it answers that and ends. Pictures and
videos belong to the next question: each becomes a line before it, or stands where the question
itself says <image> or <|video|>. Ctrl-C ends an answer; what it said so far stays in the
conversation. Leaving waits until the device has finished the few tokens that it is at.
"""

from __future__ import annotations

import re
import signal
import sys
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import jax
from absl import flags
from PIL import Image

import owl_jax
from owl_jax import cli
from owl_jax.errors import BadData, UserError, printable
from owl_jax.inference.arguments import whole_number
from owl_jax.inference.engine import MAX_NEW_TOKENS, NUM_FRAMES, Owl, PromptTooLong
from owl_jax.inference.given_media import MOST_FRAMES
from owl_jax.inference.load import DTYPES
from owl_jax.inference.sampling import Sampling, check_seed
from owl_jax.inference.typed_paths import exists, local_path, typed_paths
from owl_jax.media.image import IMAGE_FORMATS, load_image
from owl_jax.media.video import FRAME_SUFFIXES, load_video
from owl_jax.text.conversation import count_media

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

HELP = """\
/image FILE  show a picture, or several, with the next question (as pasted or dragged)
/video FILE  show a video (file, GIF or folder of frames) with the next question
/undo        take back what was shown last, or else the last question, its pictures and its answer
/reset       forget the conversation
/help        show this
/quit        leave (or Ctrl-D)
Ctrl-C       end an answer: what it said so far is kept; leave, if nothing is typed"""

_KEPT = "\n\t"  # of control characters, in an answer
_FULL = "; /undo takes back the last question or picture, /reset forgets the conversation"

# Ends of names that are hardly ever a question.
_NAMES = (*FRAME_SUFFIXES, ".avi", ".mkv", ".mov", ".mp4", ".webm")

_UNREADABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")


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
        # How many images and videos there were before each command that shows some with the next
        # question, and before those of each question that was answered.
        self._shown: list[tuple[int, int]] = []
        self._answered: list[tuple[int, int]] = []

    def show_images(self, paths: Iterable[str]) -> None:
        """Adds pictures to the next question, all or none. Raises UserError for one that cannot be
        read."""
        self._show([_load_picture(path) for path in paths], [])

    def show_videos(self, paths: Sequence[str]) -> None:
        """Adds videos to the next question, all or none. Raises UserError for one that cannot be
        read."""
        for path in paths:
            if _is_still_picture(path):
                raise UserError(f"{path} is a picture; /image shows it (--image at the start)")
            load_video(path, 1, self._owl.config.vision.image_size)
        self._show([], paths)

    def undo(self) -> str:
        """Takes back what the last command showed, or else the last question with its media.

        Returns: what was taken back, for people. Raises UserError if there is nothing.
        """
        if self._shown:
            images, videos = self._cut_media(*self._shown.pop())
            names = [(images, "picture"), (videos, "video")]
            taken = [f"{n} {noun}{'s' * (n > 1)}" for n, noun in names if n]
            return f"{' and '.join(taken)} taken back"
        if not self._answered:
            raise UserError("there is nothing to take back")
        self._cut_media(*self._answered.pop())
        del self._messages[-2:]
        return "the last question and its answer are taken back"

    def ask(self, question: str) -> Generator[str]:
        """The answer as it comes.

        The question counts as asked when the answer is complete, or is interrupted (or not read to
        its end) after it has said something: that is the answer then.
        Raises UserError as `Owl.chat`, before the first piece.
        """
        before = self._shown[0] if self._shown else (len(self._images), len(self._videos))
        media: list[dict[str, str]] = []
        if not any(count_media(question)):
            media = self._pending(*before)
        message = {"role": "user", "content": [*media, {"type": "text", "text": question}]}
        messages = [*self._messages, message]
        pieces = self._owl.chat(messages, self._images, self._videos, stream=True, **self._sampling)
        answer = ""
        try:
            for piece in pieces:
                answer += piece
                yield piece
        except (KeyboardInterrupt, GeneratorExit):
            if answer:
                self._keep(messages, answer, before)
            raise
        self._keep(messages, answer, before)

    def _keep(self, messages: list[dict[str, Any]], answer: str, before: tuple[int, int]) -> None:
        self._messages = [*messages, {"role": "assistant", "content": answer}]
        self._answered.append(before)
        self._shown = []

    def _show(self, images: Iterable[Any], videos: Iterable[Any]) -> None:
        self._shown.append((len(self._images), len(self._videos)))
        self._images += images
        self._videos += videos

    def _pending(self, images: int, videos: int) -> list[dict[str, str]]:
        """Parts for the media that were shown since there were so many, in their order."""
        parts = []
        counts = [*self._shown[1:], (len(self._images), len(self._videos))] if self._shown else []
        for more_images, more_videos in counts:
            parts += [{"type": "image"}] * (more_images - images)
            parts += [{"type": "video"}] * (more_videos - videos)
            images, videos = more_images, more_videos
        return parts

    def _cut_media(self, images: int, videos: int) -> tuple[int, int]:
        """Forgets all media but the first; returns how many were forgotten."""
        taken = len(self._images) - images, len(self._videos) - videos
        del self._images[images:], self._videos[videos:]
        return taken


def obey(line: str, conversation: Conversation) -> bool:
    """Carries out a slash command; False says to leave. Raises UserError for a wrong one."""
    name, _, argument = line.lstrip().partition(" ")
    name = name.rstrip()
    shows = {"/image": conversation.show_images, "/video": conversation.show_videos}
    if name in shows:
        paths = typed_paths(argument)
        if not paths:
            raise UserError(f"{name} needs a file: {name} FILE")
        shows[name](paths)
        if len(paths) > 1:
            print(f"{len(paths)} files are shown with the next question.")
    elif name == "/reset":
        conversation.reset()
        print("The conversation is forgotten.")
    elif name == "/undo":
        print(f"{conversation.undo().capitalize()}.")
    elif name == "/help":
        print(HELP)
    elif name != "/quit":
        raise UserError(f"unknown command {name[:60]}; /help lists what there is")
    return name != "/quit"


def converse(conversation: Conversation) -> None:
    """Reads questions and commands until /quit, the end of the input or Ctrl-C at an empty prompt.

    Ctrl-C ends an answer, or what is typed.
    """
    typed = _typed_so_far()
    print("Ask a question; /help lists commands.")
    while True:
        try:
            line = input("Human: ")
        except EOFError:
            print()
            return
        except KeyboardInterrupt:
            print()
            if typed():
                continue
            return
        except UnicodeDecodeError as error:
            print(f"error: the line is not {error.encoding}; type it again")
            continue
        try:
            if not _answer(line, conversation):
                return
        except PromptTooLong as error:
            print(f"error: {error}{_FULL}")
        except UserError as error:
            print(f"error: {error}")
        except KeyboardInterrupt:
            print(" (stopped)")


def _answer(line: str, conversation: Conversation) -> bool:
    """What follows from one line; False says to leave."""
    if command := _for_dropped_file(line.strip()):
        raise UserError(f"to show a file, put {command} before it: {command} {line.strip()}")
    if line.lstrip().startswith("/"):
        return obey(line, conversation)
    if line.strip():
        _print("AI: ", conversation.ask(_readable(line.strip())))
    return True


def _for_dropped_file(line: str) -> str | None:
    """The command that shows what a line names, if it is nothing but a file, as dragged."""
    is_path = line.startswith(("/", "~/", "'/", '"/', "file://"))
    if not is_path and not line.lower().endswith(_NAMES):
        return None
    try:
        paths = typed_paths(line)
    except UserError:
        return None
    if not paths or not all(map(exists, paths)):
        return None
    is_still = [_is_still_picture(path) for path in paths]
    return "/image" if all(is_still) else "/video"


def _load_picture(path: str) -> Image.Image:
    try:
        return load_image(path)
    except BadData as error:
        if Path(path).is_dir():
            raise UserError(f"{path} is a folder; /video shows a folder of frames") from error
        if error.reason == "not a picture" and path.lower().endswith(_NAMES):
            raise UserError(f"{error}; a video is shown by /video") from error
        raise


def _is_still_picture(path: str) -> bool:
    """Whether a file is a picture that does not move; False for what cannot be read."""
    if not Path(path).is_file():
        return False
    try:
        with Image.open(path, formats=IMAGE_FORMATS) as image:
            # The further pictures of an MPO are a camera's previews or second eye.
            return image.format == "MPO" or not getattr(image, "is_animated", False)
    # On damaged files Pillow raises whatever its parsers stumble over; the loader names it.
    except Exception:
        return False


def _typed_so_far() -> Callable[[], str]:
    """What stands on the line being typed; gives input() a history and arrow keys where it can."""
    try:
        import readline
    except ImportError:
        return str
    return readline.get_line_buffer if sys.stdin.isatty() else str


def _readable(text: str) -> str:
    """A question; bytes that are not UTF-8 and control characters become U+FFFD."""
    with suppress(UnicodeEncodeError):  # halves of characters that no byte stands for
        text = text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    return _UNREADABLE.sub("\ufffd", text)


def main(argv: list[str]) -> None:
    """Loads the model and answers."""
    del argv
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
    try:
        if _PROMPT.value is None:
            converse(conversation)
        else:
            _print("", conversation.ask(_readable(_PROMPT.value)))
    finally:
        # No answer is under way any more; another Ctrl-C would only break what JAX puts in order.
        signal.signal(signal.SIGINT, signal.SIG_IGN)


def _print(start: str, pieces: Generator[str]) -> None:
    """Prints a line piece by piece; nothing of it if the first piece fails."""
    with closing(pieces):
        for piece in pieces:
            # What a model says may hold anything, terminal escape sequences too.
            print(f"{start}{printable(piece, keep=_KEPT)}", end="", flush=True)
            start = ""
    print(start)


if __name__ == "__main__":
    cli.run(main)
