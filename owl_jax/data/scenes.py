"""Scenes of the embedded data set: what they hold, their split, what is asked, how they look.

A scene is one to four coloured shapes on a 3 x 3 grid of places, at most one at a place. A clip is
a short video in which one object moves along a row or a column; another may rest beside its path.
Everything follows from the random generator that is passed in; Pillow and NumPy draw it.

The split is a property of the scene alone: a stable hash of its objects and places keeps a tenth of
all scenes from training. A clip belongs to a split when its first and its last frame, the two that
lie on the grid, both do.

Questions are balanced: one for yes or no is asked only where its slots can be filled for either
answer, and both are equally likely; a number is drawn before what is counted. So the words alone
tell little of the answer.
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

PLACES = (
    "top left", "top", "top right",
    "left", "center", "right",
    "bottom left", "bottom", "bottom right",
)  # fmt: skip

COLORS = {
    "red": (230, 52, 48),
    "green": (46, 180, 84),
    "blue": (52, 116, 246),
    "yellow": (252, 208, 44),
    "purple": (186, 72, 222),
    "white": (246, 246, 246),
}

_ARM = 0.36
# Corners of each shape in a square from -1 to 1, y downwards. The square is drawn smaller than the
# circle so that both cover about the same area, and size alone never tells them apart.
_OUTLINES: dict[str, tuple[tuple[float, float], ...]] = {
    "circle": tuple(
        (math.cos(2 * math.pi * k / 48), math.sin(2 * math.pi * k / 48)) for k in range(48)
    ),
    "square": ((-0.88, -0.88), (0.88, -0.88), (0.88, 0.88), (-0.88, 0.88)),
    "triangle": ((0.0, -1.0), (1.08, 0.88), (-1.08, 0.88)),
    "cross": (
        (-_ARM, -1.0), (_ARM, -1.0), (_ARM, -_ARM), (1.0, -_ARM), (1.0, _ARM), (_ARM, _ARM),
        (_ARM, 1.0), (-_ARM, 1.0), (-_ARM, _ARM), (-1.0, _ARM), (-1.0, -_ARM), (-_ARM, -_ARM),
    ),
}  # fmt: skip
SHAPES = tuple(_OUTLINES)

_ORDINALS = ("first", "second")

MAX_THINGS = 4
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
    bystander: Thing | None

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
        rest = () if self.bystander is None else (self.bystander,)
        moved = self.mover._replace(place=self.stop)
        return tuple(sorted((self.mover, *rest))), tuple(sorted((moved, *rest)))


def stable_bucket(key: str, buckets: int) -> int:
    """A number in [0, buckets) that depends on `key` alone, in every process, on every machine."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") % buckets


def held_out(scene: Scene) -> bool:
    """Whether this combination of objects and places is kept from training; a tenth of them is."""
    return stable_bucket(caption(tuple(sorted(scene))), _BUCKETS) == 0


def caption(scene: Scene) -> str:
    """The whole scene in words: "red circle at top left, blue square at center."."""
    return ", ".join(f"{thing.name} at {PLACES[thing.place]}" for thing in scene) + "."


def clip_caption(clip: Clip) -> str:
    """The whole clip in words: "red circle moves right from left to center, blue cross at top."."""
    start, stop = PLACES[clip.mover.place], PLACES[clip.stop]
    words = f"{clip.mover.name} moves {clip.direction} from {start} to {stop}"
    return f"{words}, {caption((clip.bystander,))}" if clip.bystander else f"{words}."


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
    """A clip of the split: a straight move of one or two cells, mostly beside a bystander."""
    # Drawn before the split, as above. Few clips of one object alone are held out, hence mostly.
    accompanied = rng.random() < 0.75
    while True:
        start, stop = rng.sample(range(len(PLACES)), 2)
        (row, column), (stop_row, stop_column) = _cell(start), _cell(stop)
        if row != stop_row and column != stop_column:
            continue
        mover = _sample_thing(rng, start)
        bystander = None
        if accompanied:
            step = 1 if row == stop_row else 3
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
    rest = [] if clip.bystander is None else [_sample_sprite(clip.bystander, rng)]
    rows, columns = clip.shift
    return [
        _paint(
            [*rest, mover._replace(x=mover.x + t * columns, y=mover.y + t * rows)], backdrop, size
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
    asked = (
        (f"Which way does the {clip.mover.name} move?", clip.direction),
        ("What color is the moving object?", clip.mover.color),
        ("What shape is the moving object?", clip.mover.shape),
        ("Where does the moving object start?", PLACES[clip.mover.place]),
        ("Where does the moving object stop?", PLACES[clip.stop]),
    )
    return Turn("video", *rng.choice(asked))


Asked = tuple[str, str] | None
"""Question and answer; None where the scene leaves what was drawn ambiguous or without balance."""


def _ask_color(rng: random.Random, scene: Scene) -> Asked:
    thing = rng.choice(scene)
    if rng.random() < 0.5:
        return f"What color is the object at {PLACES[thing.place]}?", thing.color
    unique = [other.shape for other in scene].count(thing.shape) == 1
    return (f"What color is the {thing.shape}?", thing.color) if unique else None


def _ask_shape(rng: random.Random, scene: Scene) -> Asked:
    thing = rng.choice(scene)
    if rng.random() < 0.5:
        return f"What shape is at {PLACES[thing.place]}?", thing.shape
    unique = [other.color for other in scene].count(thing.color) == 1
    return (f"What shape is the {thing.color} object?", thing.shape) if unique else None


def _ask_count(rng: random.Random, scene: Scene) -> Asked:
    if rng.random() < 1 / 3:
        return "How many objects are there?", str(len(scene))
    counts = _counts(rng, scene)
    number = rng.choice(sorted(set(counts.values())))
    what = rng.choice([name for name, count in counts.items() if count == number])
    return f"How many {what} are there?", str(number)


def _ask_position(rng: random.Random, scene: Scene) -> Asked:
    thing = rng.choice(scene)
    unique = [other.name for other in scene].count(thing.name) == 1
    return (f"Where is the {thing.name}?", PLACES[thing.place]) if unique else None


def _ask_comparison(rng: random.Random, scene: Scene) -> Asked:
    if rng.random() < 0.5:
        counts = _counts(rng, scene)
        # Ordered pairs: each unequal pair is there both ways round, once for yes and once for no.
        pairs = [(a, b) for a, b in permutations(counts, 2) if counts[a] != counts[b]]
        if not pairs:
            return None
        a, b = rng.choice(pairs)
        return f"Are there more {a} than {b}?", _yes_or_no(counts[a] > counts[b])
    if len(scene) < 2:
        return None
    names = [thing.name for thing in scene]
    one, other = rng.sample(scene, 2)
    axis, words = rng.choice(((0, ("above", "below")), (1, ("to the left of", "to the right of"))))
    here, there = _cell(one.place)[axis], _cell(other.place)[axis]
    if names.count(one.name) > 1 or names.count(other.name) > 1 or here == there:
        return None
    which = rng.randrange(2)
    truth = (here < there, here > there)[which]
    return f"Is the {one.name} {words[which]} the {other.name}?", _yes_or_no(truth)


def _ask_two(rng: random.Random, scenes: tuple[Scene, Scene]) -> Asked:
    which = rng.randrange(2)
    chosen, other = scenes[which], scenes[1 - which]
    # An object where the other picture has one too, if there is: the number of the picture counts.
    taken = {thing.place for thing in other}
    thing = rng.choice([thing for thing in chosen if thing.place in taken] or chosen)
    where = f"at {PLACES[thing.place]} in the {_ORDINALS[which]} image?"
    match rng.randrange(5):
        case 0:
            more = len(scenes[1]) - len(scenes[0])
            answer = "same" if more == 0 else _ORDINALS[more > 0]
            return "Which image has more objects?", answer
        case 1:
            return f"How many objects are in the {_ORDINALS[which]} image?", str(len(chosen))
        case 2:
            return f"What color is the object {where}", thing.color
        case 3:
            return f"What shape is {where}", thing.shape
        case _:
            first, second = ({thing.shape for thing in scene} for scene in scenes)
            shapes = {"yes": sorted(first & second), "no": sorted(first ^ second)}
            answer = rng.choice(("yes", "no"))
            if not all(shapes.values()):
                return None
            return f"Do both images have a {rng.choice(shapes[answer])}?", answer


def _counts(rng: random.Random, scene: Scene) -> dict[str, int]:
    """How often each colour, or each shape, occurs (zero too), by its plural: "red objects"."""
    if rng.random() < 0.5:
        colors = Counter(thing.color for thing in scene)
        return {f"{color} objects": colors[color] for color in COLORS}
    shapes = Counter(thing.shape for thing in scene)
    return {"crosses" if shape == "cross" else f"{shape}s": shapes[shape] for shape in SHAPES}


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
    return divmod(place, 3)


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
    cell = large / 3
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
