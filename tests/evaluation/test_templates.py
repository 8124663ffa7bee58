"""The texts that templates make of an item."""

import pytest

from owl_jax.errors import UserError
from owl_jax.evaluation.benchmark import Item, Medium, place_media
from owl_jax.evaluation.benchmarks import BENCHMARKS
from owl_jax.evaluation.benchmarks.pope import Pope
from owl_jax.evaluation.templates import choose_template

PICTURE, OTHER = Medium("image", b"1"), Medium("image", b"2")
CHOICE = Item("1", "What is it?", (PICTURE,), ("a cat", "a dog"), fields={"hint": "It barks."})


class Choices(Pope):
    kind = "choice"


def test_llava_gives_options_and_an_instruction():
    ask = choose_template("llava")
    assert ask(Choices(), CHOICE).parts == (
        PICTURE,
        "It barks.\nWhat is it?\nA. a cat\nB. a dog\n"
        "Answer with the option's letter from the given choices directly.",
    )
    item = Item("1", "Is it red?", (PICTURE,))
    instruction = "Answer the question using a single word or phrase."
    assert ask(Pope(), item).parts == (PICTURE, f"Is it red?\n{instruction}")


def test_owl_gives_options_in_a_sentence():
    ask = choose_template("owl")
    text = "It barks.\nWhat is it?\nThere are several options: A. a cat B. a dog"
    assert ask(Choices(), CHOICE).parts == (PICTURE, text)
    assert ask(Pope(), Item("1", "Is it red?", (PICTURE,))).parts == (PICTURE, "Is it red?")


@pytest.mark.parametrize("name", BENCHMARKS)
def test_every_benchmark_names_what_a_template_needs(name):
    assert BENCHMARKS[name].kind in ("yes_no", "choice", "short_answer", "caption", "judged")
    assert BENCHMARKS[name].headline and BENCHMARKS[name].modes


def test_a_file_is_a_jinja_template(tmp_path):
    path = tmp_path / "mine.txt"
    path.write_text(
        "{{ hint }} {{ question }}{% for letter, text in choices %} ({{ letter }}) {{ text }}"
        "{% endfor %}\n<image>\n"
    )
    ask = choose_template(str(path))
    parts = ("It barks. What is it? (A) a cat (B) a dog\n", PICTURE)
    assert ask(Choices(), CHOICE).parts == parts


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{% if %}", "mine.txt: line 1: "),
        ("{{ answer }}", "'answer' is undefined"),
        ("<video> {{ question }}", "expected one mark of its kind for each medium"),
    ],
)
def test_a_wrong_template_is_one_line(tmp_path, text, message):
    path = tmp_path / "mine.txt"
    path.write_text(text)
    with pytest.raises(UserError, match=message):
        choose_template(str(path))(Pope(), CHOICE)


def test_an_unknown_template_lists_the_known():
    with pytest.raises(UserError, match="--template=lava: expected official, llava, owl or a file"):
        choose_template("lava")


def test_marks_name_the_places_of_media():
    text = "First <image> then <image>?"
    parts = ("First ", PICTURE, " then ", OTHER, "?")
    assert place_media(text, (PICTURE, OTHER)) == parts
    assert place_media("<image>", (PICTURE,)) == (PICTURE,)
    assert place_media("both?", (PICTURE, OTHER)) == (PICTURE, OTHER, "both?")
    with pytest.raises(UserError, match="has the marks <image> for 2 media"):
        place_media("<image>?", (PICTURE, OTHER))
