"""Scenes of the toy world: their objects, splits and captions.

A scene is one to four coloured shapes in four places, the quarters of the picture, with at most one
at a place. It does not say where in its quarter a shape lies, nor its size: owl_jax/demo/drawing.py
draws both. A clip is a short video in which one object moves along a row or a column, and another
rests beside its path.

All randomness comes from the generator that is passed in.

The split depends on the scene only: a stable hash of its objects and places holds out a tenth of
all scenes. A clip is in a split if its first and last frame, which are scenes, both are.
"""

import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

SPLITS = ("train", "heldout")

SIDE = 2  # of the grid of places
PLACES = ("top left", "top right", "bottom left", "bottom right")  # row by row

COLORS = {
    "red": (230, 52, 48),
    "green": (46, 180, 84),
    "blue": (52, 116, 246),
    "yellow": (252, 208, 44),
}

SHAPES = {  # with their plurals
    "circle": "circles",
    "square": "squares",
    "triangle": "triangles",
}

COUNTS = {1: 2, 2: 4, 3: 3, 4: 1}  # the number of objects, with weights
_BUCKETS = 10


class Thing(NamedTuple):
    """One object: `place` indexes PLACES, `color` is a key of COLORS, `shape` one of SHAPES."""

    place: int
    color: str
    shape: str

    @property
    def name(self) -> str:
        """Colour and shape: "red circle"."""
        return f"{self.color} {self.shape}"


Scene = tuple[Thing, ...]
"""The objects in reading order of their places."""


@dataclass(frozen=True)
class Clip:
    """A video: `mover` goes straight from its place to `stop`; `bystander` rests."""

    mover: Thing
    stop: int
    bystander: Thing

    @property
    def shift(self) -> tuple[int, int]:
        """The mover's displacement: rows down, columns to the right."""
        (row, column), (stop_row, stop_column) = cell(self.mover.place), cell(self.stop)
        return stop_row - row, stop_column - column

    @property
    def direction(self) -> str:
        """The mover's direction: "left", "right", "up" or "down"."""
        rows, columns = self.shift
        if columns:
            return "right" if columns > 0 else "left"
        return "down" if rows > 0 else "up"

    @property
    def ends(self) -> tuple[Scene, Scene]:
        """The scenes of the first and the last frame."""
        moved = self.mover._replace(place=self.stop)
        return tuple(sorted((self.mover, self.bystander))), tuple(sorted((moved, self.bystander)))


def stable_bucket(key: str, buckets: int) -> int:
    """A hash of `key` in [0, buckets), the same in every process and on every machine."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") % buckets


def held_out(scene: Scene) -> bool:
    """Whether this combination of objects and places is held out; a tenth of all are."""
    return stable_bucket(caption(tuple(sorted(scene))), _BUCKETS) == 0


def caption(scene: Sequence[Thing]) -> str:
    """The whole scene in words: "top left red circle, bottom right blue square."."""
    return ", ".join(f"{PLACES[thing.place]} {thing.name}" for thing in scene) + "."


def listing(scene: Sequence[Thing]) -> str:
    """The whole scene, objects first: "red circle is at top left, blue square is at top right."."""
    return ", ".join(f"{thing.name} is at {PLACES[thing.place]}" for thing in scene) + "."


def by_name(scene: Scene) -> Scene:
    """The objects in the order of COLORS, then of SHAPES."""
    colors, shapes = tuple(COLORS), tuple(SHAPES)
    return tuple(sorted(scene, key=lambda t: (colors.index(t.color), shapes.index(t.shape))))


def clip_caption(clip: Clip) -> str:
    """The clip in words: "red circle moves down from top left to bottom left, top right blue
    square."."""
    start, stop = PLACES[clip.mover.place], PLACES[clip.stop]
    words = f"{clip.mover.name} moves {clip.direction} from {start} to {stop}"
    return f"{words}, {caption((clip.bystander,))}"


def sample_scene(rng: random.Random, split: str) -> Scene:
    """A scene of the split; COUNTS weights numbers of objects; scenes of a number are uniform."""
    # Drawn outside the loop, so that the number is distributed alike in both splits.
    (count,) = rng.choices(tuple(COUNTS), tuple(COUNTS.values()))
    while True:
        places = sorted(rng.sample(range(len(PLACES)), count))
        scene = tuple(_sample_thing(rng, place) for place in places)
        if held_out(scene) == (split == "heldout"):
            return scene


def sample_clip(rng: random.Random, split: str) -> Clip:
    """A clip of the split; all are equally likely."""
    while True:
        start, stop = rng.sample(range(len(PLACES)), 2)
        (row, column), (stop_row, stop_column) = cell(start), cell(stop)
        if row != stop_row and column != stop_column:
            continue
        mover = _sample_thing(rng, start)
        step = 1 if row == stop_row else SIDE
        path = range(min(start, stop), max(start, stop) + 1, step)
        free = [place for place in range(len(PLACES)) if place not in path]
        bystander = _sample_thing(rng, rng.choice(free))
        if bystander.name == mover.name:
            continue
        clip = Clip(mover, stop, bystander)
        if all(held_out(scene) == (split == "heldout") for scene in clip.ends):
            return clip


def cell(place: int) -> tuple[int, int]:
    """Row and column of a place."""
    return divmod(place, SIDE)


def _sample_thing(rng: random.Random, place: int) -> Thing:
    return Thing(place, rng.choice(tuple(COLORS)), rng.choice(tuple(SHAPES)))
