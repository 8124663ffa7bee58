"""A conversation on a terminal: reads questions and slash commands, streams the answers."""

from __future__ import annotations

import os
import re
import signal
import sys
import termios
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager, suppress
from types import FrameType

from owl_jax.errors import UserError, printable
from owl_jax.inference.api import PromptTooLong
from owl_jax.inference.dialogue import MEDIA_NAMES, Conversation, is_still_picture
from owl_jax.inference.interrupts import asked_to_stop, readline_woken
from owl_jax.inference.typed_paths import exists, typed_paths

HELP = """\
/image FILE  show one or more pictures with the next question (paste or drag the files)
/video FILE  show a video (file, GIF or folder of frames) with the next question
/undo        remove the pictures or videos added last, or else the last question and its answer
/reset       forget the conversation
/help        show this
/quit        leave (or Ctrl-D)
Ctrl-C       stop an answer, and keep its text so far; at an empty prompt, leave"""

_KEPT = "\n\t"  # control characters that an answer may have
_FULL = "; /undo removes the last question or picture, /reset forgets the conversation"

_UNREADABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")


def obey(line: str, conversation: Conversation) -> bool:
    """Runs a slash command; returns False to leave. Raises UserError for a wrong one."""
    name, _, argument = line.lstrip().partition(" ")
    name = name.rstrip()
    shows = {"/image": conversation.show_images, "/video": conversation.show_videos}
    if name in ("/reset", "/undo", "/help", "/quit") and argument.strip():
        # The line may be a question, and /reset could not be undone.
        raise UserError(f"{name} takes no argument; write {name} alone")
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
        raise UserError(f"unknown command {name[:60]}; /help lists the commands")
    return name != "/quit"


def converse(conversation: Conversation) -> None:
    """Reads questions and commands until /quit, the end of the input or Ctrl-C at an empty prompt.

    Ctrl-C during an answer stops it; while a line is being typed, it discards the line.
    """
    typed = _typed_so_far()
    print("Ask a question; /help lists commands.")
    while True:
        try:
            with readline_woken(), _terminal_restored():
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
    """Answers a question or runs a command; returns False to leave."""
    if command := _for_dropped_file(line.strip()):
        raise UserError(f"to show a file, put {command} before it: {command} {line.strip()}")
    if line.lstrip().startswith("/"):
        return obey(line, conversation)
    if line.strip():
        print_answer("AI: ", conversation.ask(readable(line.strip())))
    return True


def _for_dropped_file(line: str) -> str | None:
    """The command that shows a line's files, if the line is only paths, as of dragged files."""
    is_path = line.startswith(("/", "~/", "'/", '"/', "file://"))
    if not is_path and not line.lower().endswith(MEDIA_NAMES):
        return None
    try:
        paths = typed_paths(line)
    except UserError:
        return None
    if not paths or not all(map(exists, paths)):
        return None
    is_still = [is_still_picture(path) for path in paths]
    return "/image" if all(is_still) else "/video"


def _typed_so_far() -> Callable[[], str]:
    """A function that returns the unfinished line; "" where that is unknown.

    Importing readline also gives input() a history and arrow keys.
    """
    try:
        import readline
    except ImportError:
        return str
    return readline.get_line_buffer if sys.stdin.isatty() else str


@contextmanager
def _terminal_restored() -> Iterator[None]:
    """Restores the terminal if SIGTERM ends the process inside the block.

    Readline switches echo off while a line is typed, and would leave it off.
    """
    if not sys.stdin.isatty() or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return
    descriptor = sys.stdin.fileno()
    settings = termios.tcgetattr(descriptor)

    def end(number: int, frame: FrameType | None) -> None:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, settings)
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)

    signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def readable(text: str) -> str:
    """`text` with U+FFFD in place of control characters and bytes that are not UTF-8."""
    with suppress(UnicodeEncodeError):  # surrogates that do not stand for a byte
        text = text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    return _UNREADABLE.sub("\ufffd", text)


def print_answer(start: str, pieces: Generator[str]) -> None:
    """Prints `start` and the pieces as they come; prints nothing if the first piece fails.

    Raises KeyboardInterrupt after Ctrl-C, between two pieces.
    """
    with asked_to_stop() as stopped, closing(pieces):
        for piece in pieces:
            # An answer may contain anything, even terminal escape sequences.
            print(f"{start}{printable(piece, keep=_KEPT)}", end="", flush=True)
            start = ""
            if stopped():
                raise KeyboardInterrupt
        if stopped():
            raise KeyboardInterrupt
    print(start)
