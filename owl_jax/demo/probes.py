"""Questions of kinds that no training example has, to see how far the model reaches.

    reworded         one picture; the training's questions in other words
    follow_up        one picture and a question; then a question about the same object, called "it"
    two_turns        a picture and a question; then another picture and a question about both
    three_images     three pictures; an object in one of them

All scenes are held out. The answers have the form of the training's answers, so that they can be
compared whole.
"""

import random
import re
from collections.abc import Callable

from owl_jax.demo.dialogues import Dialogue
from owl_jax.demo.questions import Question, make_question
from owl_jax.demo.scene_questions import ORDINALS, Turn, ask_scene, ask_two_scenes
from owl_jax.demo.scenes import PLACES, sample_scene

_OTHER_WORDS = {
    r"What color is the (.*)\?": r"Name the color of the \1.",
    r"What shape is the (.*)\?": r"The \1 is of what shape?",
    r"How many (.*) are there\?": r"What is the number of \1?",
    r"Where is the (.*)\?": r"What is the place of the \1?",
    r"Are there more (.*) than (.*)\?": r"Is the number of \1 above the number of \2?",
    r"Is the (.*)\?": r"The \1, yes or no?",
}


def probes(seed: int, count: int, image_size: int = 96) -> dict[str, list[Question]]:
    """`count` questions of each kind; question i depends only on i, kind and `seed`."""
    return {
        name: [
            make_question(name, compose(rng), image_size, rng)
            for index in range(count)
            for rng in [random.Random(f"probe {seed} {name} {index}")]
        ]
        for name, compose in _PROBES.items()
    }


def _reworded(rng: random.Random) -> Dialogue:
    """A question about one picture, in other words."""
    scene = sample_scene(rng, "heldout")
    turn = ask_scene(rng, scene)
    asked = next(
        re.sub(known, other, turn.question)
        for known, other in _OTHER_WORDS.items()
        if re.fullmatch(known, turn.question)
    )
    return Dialogue(("<image>",), (turn._replace(question=asked),), scenes=(scene,))


def _follow_up(rng: random.Random) -> Dialogue:
    """A second question that says "it" for the object of the first."""
    scene = sample_scene(rng, "heldout")
    thing = rng.choice(scene)
    place = PLACES[thing.place]
    what = f"object at {place}"
    first = Turn("colour", f"What color is the {what}?", f"The {what} is {thing.color}.")
    second = Turn("follow_up", "And what shape is it?", f"The {what} is a {thing.name}.")
    if [other.color for other in scene].count(thing.color) == 1 and rng.random() < 0.5:
        what = f"{thing.color} object"
        first = Turn("shape", f"What shape is the {what}?", f"The {what} is a {thing.shape}.")
        second = Turn("follow_up", "And where is it?", f"The {thing.name} is at {place}.")
    return Dialogue(("<image>",), (first, second), scenes=(scene,))


def _two_turns(rng: random.Random) -> Dialogue:
    """A picture with a question, then another picture and a question about both."""
    pair = sample_scene(rng, "heldout"), sample_scene(rng, "heldout")
    turns = ask_scene(rng, pair[0]), ask_two_scenes(rng, pair)
    return Dialogue(("<image>",), turns, scenes=pair, later=("<image>",))


def _three_images(rng: random.Random) -> Dialogue:
    """An object in one of three pictures."""
    scenes = tuple(sample_scene(rng, "heldout") for _ in ORDINALS)
    which = rng.randrange(len(ORDINALS))
    thing = rng.choice(scenes[which])
    what = f"object at {PLACES[thing.place]} in the {ORDINALS[which]} image"
    turn = Turn("three_images", f"What color is the {what}?", f"The {what} is {thing.color}.")
    return Dialogue(("<image>",) * len(scenes), (turn,), scenes=scenes)


_PROBES: dict[str, Callable[[random.Random], Dialogue]] = {
    "reworded": _reworded,
    "follow_up": _follow_up,
    "two_turns": _two_turns,
    "three_images": _three_images,
}
