"""Scenes of the embedded data set: what they hold, their split, what is asked, how they look.

A scene is one to three coloured shapes on a 2 x 2 grid of places, at most one at a place. A clip is
a short video in which one object moves along a row or a column; another rests beside its path.
Everything follows from the random generator that is passed in; Pillow and NumPy draw it.

The split is a property of the scene alone: a stable hash of its objects and places keeps a tenth of
all scenes from training. A clip belongs to a split when its first and its last frame, the two that
lie on the grid, both do.

Questions are balanced: one for yes or no is asked only where its slots can be filled for either
answer, and both are equally likely; a number is drawn before what is counted. So the words alone
tell little of the answer. Answers are sentences, and where it takes several looks they say what was
seen before they conclude.
"""

import hashlib
import math
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

SPLITS = ("train", "heldout")

SIDE = 2  # of the grid of places
PLACES = ("top left", "top right", "bottom left", "bottom right")  # row by row

COLORS = {
    "red": (230, 52, 48),
    "green": (46, 180, 84),
    "blue": (52, 116, 246),
    "yellow": (252, 208, 44),
}

# Corners of each shape in a square from -1 to 1, y downwards. The square is drawn smaller than the
# circle so that both cover about the same area, and size alone never tells them apart.
_OUTLINES: dict[str, tuple[tuple[float, float], ...]] = {
    "circle": tuple(
        (math.cos(2 * math.pi * k / 48), math.sin(2 * math.pi * k / 48)) for k in range(48)
    ),
    "square": ((-0.88, -0.88), (0.88, -0.88), (0.88, 0.88), (-0.88, 0.88)),
    "triangle": ((0.0, -1.0), (1.08, 0.88), (-1.08, 0.88)),
}
SHAPES = tuple(_OUTLINES)

_ORDINALS = ("first", "second")

MAX_THINGS = 3
_BUCKETS = 10
_RADIUS = 0.385  # of a cell: the shapes fill about three quarters of it
_SUPERSAMPLE = 4


class Thing(NamedTuple):
    """One object: `place` indexes PLACES, `color` is a key of COLORS, `shape` one of SHAPES."""

    place: int
    color: str
    shape: str

    @property
    def name(self) -> str:
        """Colour and shape, as the questions call it: "red circle"."""
        return f"{self.color} {self.shape}"


Scene = tuple[Thing, ...]
"""The objects in reading order of their places."""


@dataclass(frozen=True)
class Clip:
    """A video: `mover` goes in a straight line from its place to `stop`; `bystander` rests."""

    mover: Thing
    stop: int
    bystander: Thing

    @property
    def shift(self) -> tuple[int, int]:
        """How many rows down and how many columns to the right the mover goes."""
        (row, column), (stop_row, stop_column) = _cell(self.mover.place), _cell(self.stop)
        return stop_row - row, stop_column - column

    @property
    def direction(self) -> str:
        """Where the mover goes: "left", "right", "up" or "down"."""
        rows, columns = self.shift
        if columns:
            return "right" if columns > 0 else "left"
        return "down" if rows > 0 else "up"

    @property
    def ends(self) -> tuple[Scene, Scene]:
        """The scenes of the first and of the last frame."""
        moved = self.mover._replace(place=self.stop)
        return tuple(sorted((self.mover, self.bystander))), tuple(sorted((moved, self.bystander)))


def stable_bucket(key: str, buckets: int) -> int:
    """A number in [0, buckets) that depends on `key` alone, in every process, on every machine."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") % buckets


def held_out(scene: Scene) -> bool:
    """Whether this combination of objects and places is kept from training; a tenth of them is."""
    return stable_bucket(caption(tuple(sorted(scene))), _BUCKETS) == 0


def caption(scene: Sequence[Thing]) -> str:
    """The whole scene in words: "top left red circle, bottom right blue square."."""
    return ", ".join(f"{PLACES[thing.place]} {thing.name}" for thing in scene) + "."


def listing(scene: Scene) -> str:
    """The same by colour and shape: "red circle is at top left, blue square is at top right."."""
    colors = tuple(COLORS)
    things = sorted(scene, key=lambda t: (colors.index(t.color), SHAPES.index(t.shape)))
    return ", ".join(f"{thing.name} is at {PLACES[thing.place]}" for thing in things) + "."


def clip_caption(clip: Clip) -> str:
    """The whole clip in words, as "red circle moves down from top left to bottom left, top right
    blue square."."""
    start, stop = PLACES[clip.mover.place], PLACES[clip.stop]
    words = f"{clip.mover.name} moves {clip.direction} from {start} to {stop}"
    return f"{words}, {caption((clip.bystander,))}"


def sample_scene(rng: random.Random, split: str) -> Scene:
    """A scene of the split: number of objects, their places and each object are uniform."""
    # The number is drawn before the split is looked at, so it has one distribution in both splits.
    count = rng.randint(1, MAX_THINGS)
    while True:
        places = sorted(rng.sample(range(len(PLACES)), count))
        scene = tuple(_sample_thing(rng, place) for place in places)
        if held_out(scene) == (split == "heldout"):
            return scene


def sample_clip(rng: random.Random, split: str) -> Clip:
    """A clip of the split: a move along a row or a column, beside another object that rests."""
    while True:
        start, stop = rng.sample(range(len(PLACES)), 2)
        (row, column), (stop_row, stop_column) = _cell(start), _cell(stop)
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


def render(scene: Scene, size: int, rng: random.Random) -> Image.Image:
    """The scene as RGB, size x size pixels; `rng` moves, scales and lights things a little."""
    backdrop = _sample_backdrop(rng)
    return _paint([_sample_sprite(thing, rng) for thing in scene], backdrop, size)


def render_clip(clip: Clip, size: int, rng: random.Random, frames: int = 4) -> list[Image.Image]:
    """The clip as `frames` (at least 2) RGB pictures, evenly spaced in time, both ends included."""
    backdrop = _sample_backdrop(rng)
    mover = _sample_sprite(clip.mover, rng)
    bystander = _sample_sprite(clip.bystander, rng)
    rows, columns = clip.shift
    return [
        _paint(
            [bystander, mover._replace(x=mover.x + t * columns, y=mover.y + t * rows)],
            backdrop,
            size,
        )
        for t in np.linspace(0.0, 1.0, frames)
    ]


class Turn(NamedTuple):
    """One question with its answer; `ability` names what it takes, "" where nothing is tested."""

    ability: str
    question: str
    answer: str


def ask_scene(rng: random.Random, scene: Scene) -> Turn:
    """A question about one picture: colour, shape, count, position or comparison."""
    asks = {
        "colour": _ask_color,
        "shape": _ask_shape,
        "count": _ask_count,
        "position": _ask_position,
        "comparison": _ask_comparison,
    }
    while True:
        ability = rng.choice(tuple(asks))
        if asked := asks[ability](rng, scene):
            return Turn(ability, *asked)


def ask_two_scenes(rng: random.Random, scenes: tuple[Scene, Scene]) -> Turn:
    """A question that takes both pictures, or that is about one of them by its number."""
    while True:
        if asked := _ask_two(rng, scenes):
            return Turn("two_images", *asked)


def ask_clip(rng: random.Random, clip: Clip) -> Turn:
    """A question about the object that moves: where from, where to, which way, and what it is."""
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
"""Question and answer; None where the scene leaves what was drawn ambiguous or without balance."""


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
        # Ordered pairs: each unequal pair is there both ways round, once for yes and once for no.
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
    here, there = _cell(one.place)[axis], _cell(other.place)[axis]
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
    # An object where the other picture has one too, if there is: the number of the picture counts.
    taken = {thing.place for thing in other}
    thing = rng.choice([thing for thing in chosen if thing.place in taken] or chosen)
    image = f"{_ORDINALS[which]} image"
    what = f"object at {PLACES[thing.place]} in the {image}"
    match rng.randrange(5):
        case 0:
            first, second = map(len, scenes)
            answer = "neither" if first == second else f"the {_ORDINALS[second > first]}"
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
            reason = f"The number of {shape}s is {one[shape]} and {two[shape]}"
            return f"Do both images have a {shape}?", f"{reason}, so {truth}."


def _counts(rng: random.Random, scene: Scene) -> dict[str, int]:
    """How often each colour, or each shape, occurs (zero too), by its plural: "red objects"."""
    if rng.random() < 0.5:
        colors = Counter(thing.color for thing in scene)
        return {f"{color} objects": colors[color] for color in COLORS}
    shapes = Counter(thing.shape for thing in scene)
    return {f"{shape}s": shapes[shape] for shape in SHAPES}


def _yes_or_no(truth: bool) -> str:
    return "yes" if truth else "no"


class _Sprite(NamedTuple):
    """An object to draw; centre and radius in cells, from the top left corner of the picture."""

    color: str
    shape: str
    x: float
    y: float
    radius: float


def _cell(place: int) -> tuple[int, int]:
    """Row and column of a place."""
    return divmod(place, SIDE)


def _sample_thing(rng: random.Random, place: int) -> Thing:
    return Thing(place, rng.choice(tuple(COLORS)), rng.choice(SHAPES))


def _sample_sprite(thing: Thing, rng: random.Random) -> _Sprite:
    row, column = _cell(thing.place)
    return _Sprite(
        thing.color,
        thing.shape,
        x=column + 0.5 + rng.uniform(-0.05, 0.05),
        y=row + 0.5 + rng.uniform(-0.05, 0.05),
        radius=_RADIUS * rng.uniform(0.94, 1.06),
    )


def _sample_backdrop(rng: random.Random) -> np.ndarray:
    """Colours of the four corners, uint8[2, 2, 3]: dark blue-greys, lighter towards one side."""
    base = np.array([44, 48, 58]) + [rng.randint(-6, 6) for _ in range(3)]
    light = np.array([rng.randint(-12, 12) for _ in range(4)]).reshape(2, 2, 1)
    return (base + light).astype(np.uint8)


def _paint(sprites: Sequence[_Sprite], backdrop: np.ndarray, size: int) -> Image.Image:
    """Draw the sprites over the backdrop, large, and reduce: that is the anti-aliasing."""
    large = size * _SUPERSAMPLE
    # Shaded at the final size, then repeated: interpolating the large canvas costs more.
    canvas = Image.fromarray(backdrop).resize((size, size), Image.Resampling.BILINEAR)
    canvas = canvas.resize((large, large), Image.Resampling.NEAREST)
    draw = ImageDraw.Draw(canvas)
    cell = large / SIDE
    shade = tuple(int(channel) // 2 for channel in backdrop.mean(axis=(0, 1)))
    for sprite in sprites:
        # A soft shadow below right, of the backdrop's own tone, lifts the shape from the ground.
        for fill, lag in ((shade, 0.03), (COLORS[sprite.color], 0.0)):
            draw.polygon(
                [
                    (
                        (sprite.x + lag + x * sprite.radius) * cell,
                        (sprite.y + lag + y * sprite.radius) * cell,
                    )
                    for x, y in _OUTLINES[sprite.shape]
                ],
                fill=fill,
            )
    return canvas.reduce(_SUPERSAMPLE)
