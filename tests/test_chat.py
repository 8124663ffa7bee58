import dataclasses
import io
import os
import pty
import select
import signal
import subprocess
import sys
import termios

import forked
import pytest
import tiny
from PIL import Image

import owl_jax
from owl_jax.inference.dialogue import Conversation
from owl_jax.inference.terminal import converse
from owl_jax.text.turns import SYSTEM


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return tiny.write_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def owl(directory):
    return owl_jax.load(directory, "float32")


@pytest.fixture
def talk(owl, monkeypatch, capsys):
    """Types lines into a new conversation; returns it and the lines that it printed."""

    def talk(*lines):
        conversation = Conversation(owl, max_new_tokens=8)
        monkeypatch.setattr("sys.stdin", io.StringIO("".join(f"{line}\n" for line in lines)))
        converse(conversation)
        return conversation, capsys.readouterr().out.replace("Human: ", "").splitlines()

    return talk


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "an owl.png"
    Image.new("RGB", (20, 20), "brown").save(path)
    return path


def answers(lines):
    return [line.removeprefix("AI: ") for line in lines if line.startswith("AI: ")]


def test_turns_build_on_each_other(talk, owl):
    _, lines = talk("What?", "", "How?")
    first = owl.chat(f"{SYSTEM}\nHuman: What?\nAI: ", max_new_tokens=8)
    second = owl.chat(f"{SYSTEM}\nHuman: What?\nAI: {first}\nHuman: How?\nAI: ", max_new_tokens=8)
    assert answers(lines) == [first, second]


def test_media_stand_before_the_next_question_or_at_its_marks(talk, owl, picture):
    def expected(text):
        return owl.chat(f"{SYSTEM}\n{text}\nAI: ", [picture], max_new_tokens=8)

    _, lines = talk(f"/image {picture}", "What?")
    assert answers(lines) == [expected("Human: <image>\nHuman: What?")]
    _, lines = talk(f"/image '{picture}'", "Is <image> big?")
    assert answers(lines) == [expected("Human: Is <image> big?")]
    _, lines = talk(f"/video {picture.parent}", "What?")
    moving = f"{SYSTEM}\nHuman: <|video|>\nHuman: What?\nAI: "
    assert answers(lines) == [owl.chat(moving, videos=[picture.parent], max_new_tokens=8)]


def test_reset_forgets_what_was_said_and_shown(talk, picture):
    _, fresh = talk("What?")
    _, lines = talk("How?", f"/image {picture}", "/reset", "What?")
    assert answers(lines)[1:] == answers(fresh)


def test_mistakes_are_one_line_each_and_cost_nothing(talk, tmp_path):
    (tmp_path / "text.jpg").write_text("no picture")
    mistakes = {
        "/image": "/image needs a file",
        f"/image {tmp_path / 'missing.png'}": "no such file",
        f"/image {tmp_path / 'text.jpg'}": "not a picture",
        f"/video {tmp_path / 'missing.mp4'}": "missing.mp4",
        "/imagine": "unknown command /imagine",
        "What is in <image>?": "1 <image>",
        "x" * 300: "leaves no room",
    }
    _, fresh = talk("What?")
    _, lines = talk(*mistakes, "What?")
    assert len(lines) == len(mistakes) + len(fresh)
    for line, named in zip(lines[1 : 1 + len(mistakes)], mistakes.values(), strict=True):
        assert line.startswith("error: ")
        assert named in line
    assert answers(lines) == answers(fresh)


def test_leaving(talk):
    assert len(talk("/quit", "What?")[1]) == 1
    _, lines = talk("/help")
    assert any(line.startswith("/image FILE") for line in lines)


def test_undo_takes_back_what_was_shown_then_questions_with_their_pictures(talk, picture):
    _, fresh = talk("What?")
    _, lines = talk(f"/image '{picture}' '{picture}'", "/undo", "/undo", "What?", "/undo", "What?")
    assert lines[1:4] == [
        "2 files are shown with the next question.",
        "2 pictures removed.",
        "error: there is nothing to undo",
    ]
    assert lines[5] == "The last question and its answer are removed."
    assert answers(lines) == answers(fresh) * 2
    _, seen = talk("What?", f"/image {picture}", "How?")
    _, lines = talk(
        *("What?", f"/image {picture}", "How?", "/undo", "/undo", "/undo"),
        *("What?", f"/image {picture}", f"/image {picture}", "/undo", "How?"),
    )
    assert lines.count("error: there is nothing to undo") == 1
    assert answers(lines)[2:] == answers(seen)


def test_a_full_model_names_the_way_back(talk):
    _, lines = talk("x" * 300, "y" * 1_000_000)
    for line in lines[1:3]:
        assert line.startswith("error: the prompt takes ")
        assert "/undo" in line
        assert "/reset" in line


def test_pictures_as_terminals_paste_them(talk, owl, picture):
    text = f"{SYSTEM}\nHuman: <image>\nHuman: What?\nAI: "
    expected = owl.chat(text, picture, max_new_tokens=8)
    escaped, url = str(picture).replace(" ", "\\ "), picture.as_uri()
    assert "%20" in url
    for typed in (escaped, f"{escaped} ", f'"{picture}"', url, str(picture)):
        _, lines = talk(f"/image {typed}", "What?")
        assert answers(lines) == [expected]
        hint = talk(typed)[1][1]
        assert hint.startswith("error: to show a file, put /image before it")


def test_the_wrong_command_names_the_right_one(talk, picture):
    _, lines = talk(f"/image {picture.parent}", f"/video {picture}")
    assert "/video shows a folder" in lines[1]
    assert "/image shows it" in lines[2]


def test_a_language_model_alone_is_shown_nothing(monkeypatch, capsys, picture):
    class Reader:
        config = dataclasses.replace(tiny.CONFIG, vision=None, connector=None)

    commands = f"/image {picture}", f"/video {picture.parent}", "/video missing.mp4", "/undo"
    monkeypatch.setattr("sys.stdin", io.StringIO("\n".join(commands)))
    converse(Conversation(Reader()))
    lines = capsys.readouterr().out.replace("Human: ", "").splitlines()
    refused = "error: this language model has no vision encoder: it takes text only"
    assert lines[1:5] == [refused] * 3 + ["error: there is nothing to undo"]


def test_strange_questions_are_answered(talk, owl):
    _, lines = talk("What\udcff\ud800?", "/reset", "What\0\x1b?")
    expected = owl.chat(f"{SYSTEM}\nHuman: What\ufffd\ufffd?\nAI: ", max_new_tokens=8)
    assert answers(lines) == [expected] * 2


class Speaker:
    """Answers anything with the same pieces, and is interrupted where one of them is an error."""

    def __init__(self, *pieces):
        self.pieces = pieces
        self.asked = []

    def chat(self, messages, *media, **sampling):
        self.asked.append(messages)
        for piece in self.pieces:
            if isinstance(piece, BaseException):
                raise piece
            yield piece


def test_answers_cannot_steer_the_terminal(monkeypatch, capsys):
    conversation = Conversation(Speaker("a\x1b", "]0;title\x07\tb\n", "\x9bc"))
    monkeypatch.setattr("sys.stdin", io.StringIO("What?\n"))
    converse(conversation)
    assert "AI: a\\x1b]0;title\\x07\tb\n\\x9bc\n" in capsys.readouterr().out


def test_interrupted_answers_are_kept_as_far_as_they_got(monkeypatch, capsys):
    speaker = Speaker("An", " owl", KeyboardInterrupt())
    monkeypatch.setattr("sys.stdin", io.StringIO("What?\nHow?\n"))
    converse(Conversation(speaker))
    assert capsys.readouterr().out.count("AI: An owl (stopped)\n") == 2
    assert [m["content"] for m in speaker.asked[1] if m["role"] == "assistant"] == ["An owl"]
    silent = Speaker(KeyboardInterrupt())
    monkeypatch.setattr("sys.stdin", io.StringIO("What?\nHow?\n"))
    converse(Conversation(silent))
    assert len(silent.asked[1]) == 1


@pytest.mark.parametrize("name", ["/reset", "/undo", "/quit", "/help"])
def test_a_command_with_words_behind_it_forgets_nothing(name, monkeypatch, capsys):
    speaker = Speaker("An owl.")
    lines = f"What?\n{name} the counter, how?\n{name}  \n" if name == "/help" else ""
    monkeypatch.setattr("sys.stdin", io.StringIO(lines or f"What?\n{name} the counter?\nHow?\n"))
    converse(Conversation(speaker))
    printed = capsys.readouterr().out
    assert f"error: {name} takes no argument" in printed
    assert name == "/help" or len(speaker.asked[1]) == 3


def test_interrupt_leaves(owl, monkeypatch, capsys):
    def interrupt(_):
        raise KeyboardInterrupt

    monkeypatch.setattr("builtins.input", interrupt)
    converse(Conversation(owl))
    assert capsys.readouterr().out.endswith("\n\n")


def run(*arguments):
    return forked.run("-m", "owl_jax.chat", *arguments)


# SIGINT is ignored where tests run in the background; a terminal's programs are given it.
IN_TERMINAL = """
import fcntl, runpy, signal, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
signal.signal(signal.SIGINT, signal.default_int_handler)
runpy.run_module("owl_jax.chat", run_name="__main__", alter_sys=True)
"""


class Terminal:
    """The command in a terminal of its own."""

    def __init__(self, *arguments):
        self.ours, theirs = pty.openpty()
        settings = termios.tcgetattr(theirs)
        settings[3] |= termios.NOFLSH  # Ctrl-C would also throw away what was not read yet
        termios.tcsetattr(theirs, termios.TCSANOW, settings)
        self.process = subprocess.Popen(
            [sys.executable, "-c", IN_TERMINAL, *arguments],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
        )
        os.close(theirs)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()
        os.close(self.ours)

    def type(self, keys):
        os.write(self.ours, keys)

    def interrupt_typing(self):
        """Ctrl-C on a line that is being typed; the prompt comes again."""
        self.type(b"\x03")
        return self.read_until(b"Human: ")

    def read_until(self, text):
        """Whether `text` comes; False at the end of the command."""
        seen = b""
        while text not in seen:
            assert select.select([self.ours], [], [], 120)[0], seen
            try:
                got = os.read(self.ours, 1)  # no more: what follows is for the next call
            except OSError:  # a terminal that its program has left
                got = b""
            if not got:
                return False
            seen += got
        return True


def test_real_interrupts_in_a_terminal(directory):
    """Of an answer, of what is typed, and at the empty prompt, which leaves."""
    for _ in range(5):
        with Terminal(f"--model={directory}", "--max_new_tokens=140") as terminal:
            assert terminal.read_until(b"Human: ")
            terminal.type(b"What?\n")
            assert terminal.read_until(b"AI: ")
            terminal.type(b"\x03")
            if not terminal.read_until(b"(stopped)"):
                # The answer came to its end before, and at the empty prompt Ctrl-C leaves.
                assert terminal.process.wait() == 0
                continue
            assert terminal.read_until(b"Human: ")
            terminal.type(b"half a question")
            assert terminal.read_until(b"half a question")
            assert terminal.interrupt_typing()
            terminal.type(b"/undo\n")
            assert terminal.read_until(b"removed")
            assert terminal.read_until(b"Human: ")
            terminal.type(b"\x03")
            assert terminal.process.wait(120) == 0
            return
    raise AssertionError("no answer was under way when it was interrupted")


# Interrupts the command when it comes to import a module: before it takes over, and after.
INTERRUPTED = """
import os, runpy, signal, sys

class Interrupt:
    def find_spec(self, name, path=None, target=None):
        if name == WHEN:
            for _ in range(2):
                os.kill(os.getpid(), signal.SIGINT)

WHEN = sys.argv.pop(1)
sys.meta_path.insert(0, Interrupt())
signal.signal(signal.SIGINT, signal.default_int_handler)
runpy.run_module("owl_jax.chat", run_name="__main__", alter_sys=True)
"""


@pytest.mark.parametrize(
    ("module", "told"),
    [
        ("absl.flags", ""),
        ("owl_jax.inference.terminal", "error: interrupted\n"),
        ("jax._src.lib", "error: interrupted\n"),
        ("sentencepiece", "error: interrupted\n"),
    ],
)
def test_interrupts_of_the_start(directory, module, told):
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED, module, f"--model={directory}", "--prompt=What?"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, "", told)


def test_sigterm_leaves_the_terminal_as_it_was(directory):
    with Terminal(f"--model={directory}") as terminal:
        before = termios.tcgetattr(terminal.ours)
        assert terminal.read_until(b"Human: ")
        terminal.type(b"half")
        assert terminal.read_until(b"half")
        assert termios.tcgetattr(terminal.ours) != before
        terminal.process.terminate()
        assert terminal.process.wait(120) == -signal.SIGTERM
        assert termios.tcgetattr(terminal.ours) == before


@pytest.mark.parametrize(
    ("flag", "named"),
    [
        ("--temperature=nan", "temperature is nan"),
        ("--top_p=nan", "top_p is nan"),
        ("--top_k=0", "top_k is 0"),
        ("--seed=-1", "seed is -1"),
        (f"--seed={10**30}", "seed is 1"),
        (f"--num_frames={10**9}", "num_frames is 1000000000"),
        ("--max_new_tokens=0", "max_new_tokens is 0"),
    ],
)
def test_wrong_numbers_end_before_loading(flag, named):
    done = run("--model=none", flag)
    assert (done.returncode, done.stdout) == (1, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ") and named in line


def test_command_answers_one_prompt(directory, owl, picture):
    done = run(
        f"--model={directory}",
        f"--image={picture}",
        f"--image={picture}",
        "--prompt=Which?",
        "--max_new_tokens=8",
    )
    assert done.returncode == 0, done.stderr
    text = f"{SYSTEM}\nHuman: <image>\nHuman: <image>\nHuman: Which?\nAI: "
    assert done.stdout == owl.chat(text, [picture] * 2, max_new_tokens=8) + "\n"


def test_command_fails_in_one_line(tmp_path):
    done = run(f"--model={tmp_path}")
    assert done.returncode == 1
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    assert str(tmp_path) in line
