import io
import subprocess
import sys

import pytest
import tiny
from PIL import Image

import owl_jax
from owl_jax.chat import Conversation, converse
from owl_jax.processing.conversation import SYSTEM


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


def test_interrupt_leaves(owl, monkeypatch, capsys):
    def interrupt(_):
        raise KeyboardInterrupt

    monkeypatch.setattr("builtins.input", interrupt)
    converse(Conversation(owl))
    assert capsys.readouterr().out.endswith("\n\n")


def run(*flags):
    return subprocess.run(
        [sys.executable, "-m", "owl_jax.chat", *flags], capture_output=True, text=True, check=False
    )


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
