"""Reads scenes back from pixels and words, and answers the questions about them.

It knows nothing of the generator: it composes the whole answer itself, reasons and conclusion.
"""

import re
from typing import NamedTuple

import numpy as np
from scipy import ndimage

from owl_jax.demo.scenes import COLORS, PLACES, SHAPES, Thing
from owl_jax.text.turns import SYSTEM

SINGULARS = {
    "circles": "circle",
    "squares": "square",
    "triangles": "triangle",
    "objects": "object",
}


class Blob(NamedTuple):
    """A connected region of one colour; mask: its pixels in its box, which rows and columns cut."""

    color: str
    mask: np.ndarray
    rows: slice
    columns: slice

    @property
    def shape(self):
        """A square fills its box, a circle most of it, a triangle half."""
        fill = self.mask.mean()
        return "square" if fill > 0.9 else "circle" if fill > 0.68 else "triangle"

    @property
    def centre(self):
        """Row and column, in pixels."""
        return tuple((cut.start + cut.stop) / 2 for cut in (self.rows, self.columns))


def blobs(image):
    """The connected regions of the objects' colours, also those that touch only at corners."""
    pixels = np.asarray(image, np.float64)
    found = []
    for color, rgb in COLORS.items():
        near = np.linalg.norm(pixels - np.array(rgb), axis=-1) < 60
        labels, _ = ndimage.label(near, np.ones((3, 3)))
        for number, cut in enumerate(ndimage.find_objects(labels), start=1):
            found.append(Blob(color, labels[cut] == number, *cut))
    return found


def scene_in_pixels(image):
    """The objects in a picture, read from its pixels."""
    half = image.height / 2
    scene = []
    for blob in blobs(image):
        row, column = (int(along >= half) for along in blob.centre)
        scene.append(Thing(2 * row + column, blob.color, blob.shape))
    assert len({thing.place for thing in scene}) == len(scene)
    return tuple(sorted(scene))


def scene_in_words(words):
    """The objects in a caption, in its order."""
    return _things_in(words, r"(?P<place>[a-z]+ [a-z]+) (?P<color>[a-z]+) (?P<shape>[a-z]+)")


def scene_in_listing(words):
    """The objects in a listing, in its order."""
    return _things_in(words, r"(?P<color>[a-z]+) (?P<shape>[a-z]+) is at (?P<place>[a-z ]+)")


def _things_in(words, pattern):
    assert words.endswith(".")
    parts = [re.fullmatch(pattern, part) for part in words.removesuffix(".").split(", ")]
    return tuple(Thing(PLACES.index(p["place"]), p["color"], p["shape"]) for p in parts)


def ends_in_words(words):
    """First and last scene of a video's caption."""
    part = re.fullmatch(r"(\w+) (\w+) moves (\w+) from ([\w ]+) to ([\w ]+), (.*)", words)
    rest = only(scene_in_words(part[6]))
    mover, moved = (Thing(PLACES.index(part[k]), part[1], part[2]) for k in (4, 5))
    assert part[3] == way(mover.place, moved.place)
    return (mover, rest), (moved, rest)


def parts_of(text):
    """The lines before the first question, and the (question, answer) pairs."""
    system, *lines = text.split("\n")
    assert system == SYSTEM
    first = next(k for k, line in enumerate(lines) if line.startswith("AI: ")) - 1
    context = [line.removeprefix("Human: ") for line in lines[:first]]
    asked = [line.removeprefix("Human: ") for line in lines[first::2]]
    answers = [line.removeprefix("AI: ") for line in lines[first + 1 :: 2]]
    return context, list(zip(asked, answers, strict=True))


def only(values):
    """The one value; a question that fits several objects is ambiguous."""
    (value,) = values
    return value


def members(scene, words):
    """The objects that "red objects", "circles", "red circle" or "object at top left" means."""
    what, _, place = words.partition(" at ")
    named = {SINGULARS.get(word, word) for word in what.split()} - {"object"}
    assert named <= {*COLORS, *SHAPES} and place in ("", *PLACES)
    return [
        thing for thing in scene if named <= set(thing[1:]) and place in ("", PLACES[thing.place])
    ]


def way(start, stop):
    """The direction from one place to another of the same row or column."""
    if start // 2 == stop // 2:
        return "right" if stop > start else "left"
    assert start % 2 == stop % 2
    return "down" if stop > start else "up"


def solve_scene(question, scene):
    if found := re.fullmatch(r"What color is the (.*)\?", question):
        return f"The {found[1]} is {only(members(scene, found[1])).color}."
    if found := re.fullmatch(r"What shape is the (.*)\?", question):
        thing = only(members(scene, found[1]))
        named = f"{thing.color} {thing.shape}" if " at " in found[1] else thing.shape
        return f"The {found[1]} is a {named}."
    if found := re.fullmatch(r"How many (.*) are there\?", question):
        return f"The number of {found[1]} is {len(members(scene, found[1]))}."
    if found := re.fullmatch(r"Where is the (.*)\?", question):
        return f"The {found[1]} is at {PLACES[only(members(scene, found[1])).place]}."
    if found := re.fullmatch(r"Are there more (.*) than (.*)\?", question):
        many, few = (len(members(scene, found[k])) for k in (1, 2))
        seen = f"The number of {found[1]} is {many} and the number of {found[2]} is {few}"
        return f"{seen}, so {'yes' if many > few else 'no'}."
    found = re.fullmatch(
        r"Is the (.*?) (above|below|to the left of|to the right of) the (.*)\?", question
    )
    one, other = (only(members(scene, found[k])).place for k in (1, 3))
    truth = {
        "above": one // 2 < other // 2,
        "below": one // 2 > other // 2,
        "to the left of": one % 2 < other % 2,
        "to the right of": one % 2 > other % 2,
    }[found[2]]
    seen = f"The {found[1]} is at {PLACES[one]} and the {found[3]} is at {PLACES[other]}"
    return f"{seen}, so {'yes' if truth else 'no'}."


def solve_two(question, scenes):
    first, second = map(len, scenes)
    if question == "Which image has more objects?":
        more = "neither" if first == second else "the first" if first > second else "the second"
        return f"The first image has {first} and the second image has {second}, so {more}."
    if found := re.fullmatch(r"Do both images have a (.*)\?", question):
        one, two = (len(members(scene, found[1])) for scene in scenes)
        many = only(plural for plural, single in SINGULARS.items() if single == found[1])
        return f"The number of {many} is {one} and {two}, so {'yes' if one and two else 'no'}."
    if found := re.fullmatch(r"How many objects does the (first|second) image have\?", question):
        return f"The {found[1]} image has {first if found[1] == 'first' else second}."
    return solve_one_of(question, scenes)


def solve_one_of(question, scenes):
    """A question about an object at a place in one of the pictures."""
    ordinal = r"(.* is the object at .*) in the (first|second|third) image\?"
    found = re.fullmatch(ordinal, question)
    answer = solve_scene(f"{found[1]}?", scenes[("first", "second", "third").index(found[2])])
    return answer.replace(" is ", f" in the {found[2]} image is ")


def solve_video(question, ends):
    mover, moved = only(set(ends[0]) - set(ends[1])), only(set(ends[1]) - set(ends[0]))
    assert mover[1:] == moved[1:]
    return {
        f"Which way does the {mover.color} {mover.shape} move?": (
            f"The {mover.color} {mover.shape} moves {way(mover.place, moved.place)}."
        ),
        "What color is the moving object?": f"The moving object is {mover.color}.",
        "What shape is the moving object?": f"The moving object is a {mover.shape}.",
        "Where does the moving object start?": f"It starts at {PLACES[mover.place]}.",
        "Where does the moving object stop?": f"It stops at {PLACES[moved.place]}.",
    }[question]


SOLVERS = {"scene": solve_scene, "two_images": solve_two, "video": solve_video}


def facts_of(kind, context, images, videos):
    """What a solver needs, from the pixels, or from the words where the kind is text alone."""
    if kind == "vqa":
        return scene_in_pixels(only(images))
    if kind == "two_images":
        return tuple(map(scene_in_pixels, images))
    if kind == "video":
        return scene_in_pixels(only(videos)[0]), scene_in_pixels(only(videos)[-1])
    assert not images and not videos
    told = [line.split(" shows ")[1] for line in context]
    if kind == "text_video":
        return ends_in_words(only(told))
    scenes = tuple(map(scene_in_words, told))
    return scenes if kind == "text_two_images" else only(scenes)


def scenes_of(kind, facts):
    return (facts,) if kind in ("vqa", "text_scene") else facts
