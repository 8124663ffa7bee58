"""Questions about scenes and clips, with their answers.

Questions are balanced, so that their words reveal little about the answer: a yes-or-no question is
asked only if the scene allows either answer, and both are equally likely; a count is drawn before
the counted thing. Answers are sentences; those that need several observations state them before the
conclusion.
"""

import random
from collections import Counter
from collections.abc import Mapping
from itertools import permutations
from types import MappingProxyType
from typing import NamedTuple

from owl_jax.demo.scenes import COLORS, PLACES, SHAPES, Clip, Scene, cell

ORDINALS = ("first", "second", "third")  # of pictures
ABILITIES = ("colour", "shape", "count", "position", "comparison")  # with one picture


class Turn(NamedTuple):
    """One question with its answer. ability: the ability that it tests; "" for none."""

    ability: str
    question: str
    answer: str


def ask_scene(
    rng: random.Random, scene: Scene, weights: Mapping[str, float] = MappingProxyType({})
) -> Turn:
    """A question about one picture, of an ability of ABILITIES; weights: 1 where none is given."""
    asks = (_ask_color, _ask_shape, _ask_count, _ask_position, _ask_comparison)
    shares = [weights.get(ability, 1.0) for ability in ABILITIES]
    while True:
        ((ability, ask),) = rng.choices(tuple(zip(ABILITIES, asks, strict=True)), shares)
        if asked := ask(rng, scene):
            return Turn(ability, *asked)


def ask_two_scenes(rng: random.Random, scenes: tuple[Scene, Scene]) -> Turn:
    """A question that needs both pictures, or refers to one by its number."""
    while True:
        if asked := _ask_two(rng, scenes):
            return Turn("two_images", *asked)


def ask_clip(rng: random.Random, clip: Clip) -> Turn:
    """A question about the moving object: start, stop, direction, colour or shape."""
    mover = clip.mover
    asked = (
        (f"Which way does the {mover.name} move?", f"The {mover.name} moves {clip.direction}."),
        ("What color is the moving object?", f"The moving object is {mover.color}."),
        ("What shape is the moving object?", f"The moving object is a {mover.shape}."),
        ("Where does the moving object start?", f"It starts at {PLACES[mover.place]}."),
        ("Where does the moving object stop?", f"It stops at {PLACES[clip.stop]}."),
    )
    return Turn("video", *rng.choice(asked))


Asked = tuple[str, str] | None
"""Question and answer; None if the drawn question would be ambiguous or unbalanced."""


def _ask_color(rng: random.Random, scene: Scene) -> Asked:
    thing = rng.choice(scene)
    if rng.random() < 0.5:
        what = f"object at {PLACES[thing.place]}"
    elif [other.shape for other in scene].count(thing.shape) == 1:
        what = thing.shape
    else:
        return None
    return f"What color is the {what}?", f"The {what} is {thing.color}."


def _ask_shape(rng: random.Random, scene: Scene) -> Asked:
    thing = rng.choice(scene)
    if rng.random() < 0.5:
        what, answer = f"object at {PLACES[thing.place]}", thing.name
    elif [other.color for other in scene].count(thing.color) == 1:
        what, answer = f"{thing.color} object", thing.shape
    else:
        return None
    return f"What shape is the {what}?", f"The {what} is a {answer}."


def _ask_count(rng: random.Random, scene: Scene) -> Asked:
    if rng.random() < 1 / 3:
        what, number = "objects", len(scene)
    else:
        counts = _counts(rng, scene)
        number = rng.choice(sorted(set(counts.values())))
        what = rng.choice([name for name, count in counts.items() if count == number])
    return f"How many {what} are there?", f"The number of {what} is {number}."


def _ask_position(rng: random.Random, scene: Scene) -> Asked:
    thing = rng.choice(scene)
    if [other.name for other in scene].count(thing.name) > 1:
        return None
    return f"Where is the {thing.name}?", f"The {thing.name} is at {PLACES[thing.place]}."


def _ask_comparison(rng: random.Random, scene: Scene) -> Asked:
    if rng.random() < 0.5:
        counts = _counts(rng, scene)
        # Ordered pairs: each unequal pair occurs in both orders, once for yes and once for no.
        pairs = [(a, b) for a, b in permutations(counts, 2) if counts[a] != counts[b]]
        if not pairs:
            return None
        a, b = rng.choice(pairs)
        reason = f"The number of {a} is {counts[a]} and the number of {b} is {counts[b]}"
        answer = _yes_or_no(counts[a] > counts[b])
        return f"Are there more {a} than {b}?", f"{reason}, so {answer}."
    if len(scene) < 2:
        return None
    names = [thing.name for thing in scene]
    one, other = rng.sample(scene, 2)
    axis, words = rng.choice(((0, ("above", "below")), (1, ("to the left of", "to the right of"))))
    here, there = cell(one.place)[axis], cell(other.place)[axis]
    if names.count(one.name) > 1 or names.count(other.name) > 1 or here == there:
        return None
    which = rng.randrange(2)
    reason = (
        f"The {one.name} is at {PLACES[one.place]} and the {other.name} is at {PLACES[other.place]}"
    )
    answer = _yes_or_no((here < there, here > there)[which])
    return f"Is the {one.name} {words[which]} the {other.name}?", f"{reason}, so {answer}."


def _ask_two(rng: random.Random, scenes: tuple[Scene, Scene]) -> Asked:
    which = rng.randrange(2)
    chosen, other = scenes[which], scenes[1 - which]
    # Prefers a place that is occupied in both pictures, so that the picture's number matters.
    taken = {thing.place for thing in other}
    thing = rng.choice([thing for thing in chosen if thing.place in taken] or chosen)
    image = f"{ORDINALS[which]} image"
    what = f"object at {PLACES[thing.place]} in the {image}"
    match rng.randrange(5):
        case 0:
            first, second = map(len, scenes)
            answer = "neither" if first == second else f"the {ORDINALS[second > first]}"
            reason = f"The first image has {first} and the second image has {second}"
            return "Which image has more objects?", f"{reason}, so {answer}."
        case 1:
            return f"How many objects does the {image} have?", f"The {image} has {len(chosen)}."
        case 2:
            return f"What color is the {what}?", f"The {what} is {thing.color}."
        case 3:
            return f"What shape is the {what}?", f"The {what} is a {thing.name}."
        case _:
            one, two = (Counter(thing.shape for thing in scene) for scene in scenes)
            shapes = {
                "yes": sorted(one.keys() & two.keys()),
                "no": sorted(one.keys() ^ two.keys()),
            }
            truth = rng.choice(("yes", "no"))
            if not all(shapes.values()):
                return None
            shape = rng.choice(shapes[truth])
            reason = f"The number of {SHAPES[shape]} is {one[shape]} and {two[shape]}"
            return f"Do both images have a {shape}?", f"{reason}, so {truth}."


def _counts(rng: random.Random, scene: Scene) -> dict[str, int]:
    """Counts of each colour or each shape, zeros included, by plural: {"red objects": 1, ...}."""
    if rng.random() < 0.5:
        colors = Counter(thing.color for thing in scene)
        return {f"{color} objects": colors[color] for color in COLORS}
    shapes = Counter(thing.shape for thing in scene)
    return {plural: shapes[shape] for shape, plural in SHAPES.items()}


def _yes_or_no(truth: bool) -> str:
    return "yes" if truth else "no"
