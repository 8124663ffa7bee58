"""The embedded data set: conversations about rendered scenes, and text alone, from a seed.

Each kind of record has media and words, or words alone:

    caption          a picture and its exhaustive caption
    vqa              a picture, several questions: colour, shape, count, position, comparison
    two_images       two pictures, several questions that need both or name one of them
    video            four frames of one moving object, several questions
    video_caption    four frames and their caption
    text_scene, text_two_images, text_video   the same questions, the scene told in words instead
    text_caption     a caption as the answer, nothing before it
    text_description the scene told in words, and told again as the answer
    text_math        additions and subtractions
    text_facts       a closed list of general facts

Splits: scenes and clips by owl_jax/data/scenes.py, in pictures and in words alike. A tenth of the
arithmetic problems is held out. A fact cannot be inferred, so every fact is trained in its first
phrasing; for a quarter of them the second phrasing is held out.
"""

import math
import operator
import random
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from PIL import Image

from owl_jax.data.scenes import (
    SPLITS,
    Clip,
    Scene,
    Turn,
    ask_clip,
    ask_scene,
    ask_two_scenes,
    caption,
    clip_caption,
    listing,
    render,
    render_clip,
    sample_clip,
    sample_scene,
    stable_bucket,
)
from owl_jax.data.sources.record import Record
from owl_jax.errors import UserError
from owl_jax.text.conversation import SYSTEM

KINDS = (
    "caption",
    "vqa",
    "two_images",
    "video",
    "video_caption",
    "text_scene",
    "text_two_images",
    "text_video",
    "text_caption",
    "text_description",
    "text_math",
    "text_facts",
)
QUESTION_KINDS = tuple(kind for kind in KINDS if not kind.endswith(("caption", "description")))

# Captions go by place, listings by colour.
_CAPTION_PROMPTS = ("Describe the {}.", "What does the {} show?")
_LISTING_PROMPTS = ("List the objects in the {}.", "What is in the {}?")

# Two phrasings, then subject and answer.
_KNOWLEDGE: tuple[tuple[str, str, dict[str, str]], ...] = (
    (
        "What is the capital of {}?",
        "Name the capital of {}.",
        {
            "France": "Paris", "Italy": "Rome", "Spain": "Madrid", "Germany": "Berlin",
            "England": "London", "Japan": "Tokyo", "China": "Beijing", "Russia": "Moscow",
            "Egypt": "Cairo", "Greece": "Athens", "Portugal": "Lisbon", "Austria": "Vienna",
            "Norway": "Oslo", "Sweden": "Stockholm", "Poland": "Warsaw", "Peru": "Lima",
        },
    ),
    (
        "What is the opposite of {}?",
        "Name the opposite of {}.",
        {
            "hot": "cold", "big": "small", "day": "night", "open": "closed", "fast": "slow",
            "old": "young", "wet": "dry", "happy": "sad", "light": "dark", "hard": "soft",
            "full": "empty", "early": "late", "rich": "poor", "strong": "weak", "near": "far",
            "high": "low", "long": "short", "loud": "quiet",
        },
    ),
    (
        "Which day comes after {}?",
        "Name the day after {}.",
        {
            "Monday": "Tuesday", "Tuesday": "Wednesday", "Wednesday": "Thursday",
            "Thursday": "Friday", "Friday": "Saturday", "Saturday": "Sunday", "Sunday": "Monday",
        },
    ),
    (
        "Which month comes after {}?",
        "Name the month after {}.",
        {
            "January": "February", "February": "March", "March": "April", "April": "May",
            "May": "June", "June": "July", "July": "August", "August": "September",
            "September": "October", "October": "November", "November": "December",
            "December": "January",
        },
    ),
    (
        "What is a young {} called?",
        "Name the young of a {}.",
        {
            "dog": "puppy", "cat": "kitten", "cow": "calf", "horse": "foal", "sheep": "lamb",
            "hen": "chick", "duck": "duckling", "bear": "cub",
        },
    ),
)  # fmt: skip


def _list_problems() -> dict[str, tuple[Turn, ...]]:
    """Sums and differences by split: single digits, and 10 to 20 with a single digit."""
    pools: dict[str, list[Turn]] = {split: [] for split in SPLITS}
    for a in range(21):
        for b in range(10):
            # The hash sees the smaller number first: 3 + 4 and 4 + 3 fall into one split.
            plus = stable_bucket(f"{min(a, b)} + {max(a, b)}", 10) == 0
            pools[SPLITS[plus]].append(Turn("math", f"What is {a} + {b}?", str(a + b)))
            if a >= b:
                minus = stable_bucket(f"{a} - {b}", 10) == 0
                pools[SPLITS[minus]].append(Turn("math", f"What is {a} - {b}?", str(a - b)))
    return {split: tuple(pool) for split, pool in pools.items()}


def _list_facts() -> dict[str, tuple[Turn, ...]]:
    """The facts by split, each in its phrasings of that split."""
    pools: dict[str, list[Turn]] = {split: [] for split in SPLITS}
    for usual, other, answers in _KNOWLEDGE:
        for subject, answer in answers.items():
            held = stable_bucket(usual.format(subject), 4) == 0
            pools["train"].append(Turn("facts", usual.format(subject), answer))
            pools[SPLITS[held]].append(Turn("facts", other.format(subject), answer))
    return {split: tuple(pool) for split, pool in pools.items()}


_PROBLEMS = _list_problems()
_FACTS = _list_facts()


@dataclass(frozen=True)
class Question:
    """One question of an evaluation, with a prompt that ends where the answer begins.

    kind: one of QUESTION_KINDS. ability: colour, shape, count, position, comparison, two_images,
    video, math or facts. prompt_text: the original's format, up to the last "AI: ". images: RGB
    pictures in reading order. videos: each a list of RGB frames.
    """

    kind: str
    ability: str
    question: str
    prompt_text: str
    answer: str
    images: list[Image.Image]
    videos: list[list[Image.Image]]


@dataclass(frozen=True)
class _Dialogue:
    """A conversation before it is written and drawn; `context` holds the lines before the turns."""

    context: tuple[str, ...]
    turns: tuple[Turn, ...]
    scenes: tuple[Scene, ...] = ()
    clips: tuple[Clip, ...] = ()


@dataclass(frozen=True)
class SyntheticSource:
    """Random access to `size` records; record i depends on seed, split, i and the settings only.

    kinds: weight of each kind of record (any positive scale). split: "train" or "heldout".
    image_size: pixels of a picture's or frame's side. turns: at most that many questions in a
    record. Raises UserError on a setting that makes no sense.
    """

    kinds: Mapping[str, float]
    split: str = "train"
    size: int = 10_000
    seed: int = 0
    image_size: int = 96
    turns: int = 4

    def __post_init__(self) -> None:
        _check_kinds(self.kinds, KINDS)
        _check_split(self.split)
        weights = self.kinds.values()
        if not all(0 <= weight < math.inf for weight in weights) or not any(weights):
            raise UserError(
                f"Weights of the synthetic kinds are {dict(self.kinds)}; "
                "give finite weights of zero or more, at least one above zero."
            )
        for name, least in (("size", 1), ("image_size", 24), ("turns", 1)):
            if getattr(self, name) < least:
                raise UserError(
                    f"Synthetic {name} is {getattr(self, name)}; give at least {least}."
                )

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> Record:
        """Record `index`: "text", "images", "videos", "task_type" (the kind) and "where"."""
        index = operator.index(index)
        kind, dialogue, rng = self._dialogue(index)
        return {
            "text": _written(dialogue),
            "images": [render(scene, self.image_size, rng) for scene in dialogue.scenes],
            "videos": [render_clip(clip, self.image_size, rng) for clip in dialogue.clips],
            "task_type": kind,
            "where": self.where(index),
        }

    def where(self, index: int) -> str:
        """synthetic:INDEX."""
        return f"synthetic:{index}"

    def num_bytes(self) -> int:
        """0: its records are nowhere written."""
        return 0

    def _dialogue(self, index: int) -> tuple[str, _Dialogue, random.Random]:
        """Kind and dialogue of a record, and the generator to draw its pictures with."""
        if not 0 <= index < self.size:
            raise IndexError(f"record {index} of {self.size}")
        # A text seed goes through SHA-512: neighbours are unrelated, and no process differs.
        key = f"record {self.seed} {self.split} {index}"
        # Sorted: a mapping read back from JSON may have another order.
        names, weights = zip(*sorted(self.kinds.items()), strict=True)
        (kind,) = random.Random(key).choices(names, weights)
        # The kind in the seed: two sources of one seed, one of each kind, do not go in step.
        rng = random.Random(f"{key} {kind}")
        return kind, _compose(kind, rng, self.split, self.turns), rng


def iter_texts(source: SyntheticSource) -> Iterator[str]:
    """The text of every record in order, without drawing a picture: what a tokenizer trains on."""
    for index in range(len(source)):
        _, dialogue, _ = source._dialogue(index)
        yield _written(dialogue)


def questions(
    split: str, seed: int, count: int, kinds: Sequence[str], image_size: int = 96
) -> list[Question]:
    """`count` single questions, the kinds (of QUESTION_KINDS) in turn.

    Questions of text_math and text_facts come from closed lists: they are asked in a seeded order
    without repeating one before the list is used up. Raises UserError on an unknown kind or split.
    """
    _check_kinds(kinds, QUESTION_KINDS)
    _check_split(split)
    pools = {
        kind: random.Random(f"order {seed}").sample(pool[split], len(pool[split]))
        for kind, pool in (("text_math", _PROBLEMS), ("text_facts", _FACTS))
    }
    result = []
    for index in range(count):
        round_number, which = divmod(index, len(kinds))
        kind = kinds[which]
        rng = random.Random(f"question {seed} {split} {index}")
        if kind in pools:
            dialogue = _Dialogue((), (pools[kind][round_number % len(pools[kind])],))
        else:
            dialogue = _compose(kind, rng, split, turns=1)
        (turn,) = dialogue.turns
        result.append(
            Question(
                kind=kind,
                ability=turn.ability,
                question=turn.question,
                prompt_text=_written(dialogue).removesuffix(turn.answer),
                answer=turn.answer,
                images=[render(scene, image_size, rng) for scene in dialogue.scenes],
                videos=[render_clip(clip, image_size, rng) for clip in dialogue.clips],
            )
        )
    return result


def normalize_answer(text: str) -> str:
    """The answer as exact match compares it: lower case, no punctuation, articles, extra spaces."""
    words = re.sub(r"[^\w\s]", " ", text.lower()).split()
    return " ".join(word for word in words if word not in ("a", "an", "the"))


def _compose(kind: str, rng: random.Random, split: str, turns: int) -> _Dialogue:
    """A dialogue of the kind, about scenes of the split, with at most `turns` questions."""
    match kind:
        case "text_caption":
            turn = Turn("", "Describe a scene.", caption(sample_scene(rng, split)))
            return _Dialogue((), (turn,))
        case "caption" | "text_description":
            scene = sample_scene(rng, split)
            tellings = (_CAPTION_PROMPTS, caption), (_LISTING_PROMPTS, listing)
            told = tuple(
                Turn("", rng.choice(prompts).format("image"), tell(scene))
                for prompts, tell in rng.sample(tellings, min(turns, 2))
            )
            if kind == "caption":
                return _Dialogue(("<image>",), told[:1], scenes=(scene,))
            return _Dialogue((f"The image shows {_told(rng, scene)}",), told)
        case "video_caption":
            clip = sample_clip(rng, split)
            prompt = rng.choice(_CAPTION_PROMPTS).format("video")
            return _Dialogue(("<|video|>",), (Turn("", prompt, clip_caption(clip)),), clips=(clip,))
        case "vqa" | "text_scene":
            scene = sample_scene(rng, split)
            asked = _distinct(lambda: ask_scene(rng, scene), turns)
            if kind == "vqa":
                return _Dialogue(("<image>",), asked, scenes=(scene,))
            return _Dialogue((f"The image shows {_told(rng, scene)}",), asked)
        case "two_images" | "text_two_images":
            pair = sample_scene(rng, split), sample_scene(rng, split)
            asked = _distinct(lambda: ask_two_scenes(rng, pair), turns)
            if kind == "two_images":
                return _Dialogue(("<image>", "<image>"), asked, scenes=pair)
            first, second = (_told(rng, scene) for scene in pair)
            words = f"The first image shows {first}", f"The second image shows {second}"
            return _Dialogue(words, asked)
        case "video" | "text_video":
            clip = sample_clip(rng, split)
            asked = _distinct(lambda: ask_clip(rng, clip), turns)
            if kind == "video":
                return _Dialogue(("<|video|>",), asked, clips=(clip,))
            return _Dialogue((f"The video shows {clip_caption(clip)}",), asked)
        case "text_math":
            return _Dialogue((), _distinct(lambda: rng.choice(_PROBLEMS[split]), turns))
        case "text_facts":
            return _Dialogue((), _distinct(lambda: rng.choice(_FACTS[split]), turns))
        case _:
            raise ValueError(f"no such kind: {kind}")


def _told(rng: random.Random, scene: Scene) -> str:
    """The scene in words as something to read: in any order, so that order answers nothing."""
    return caption(rng.sample(scene, len(scene)))


def _distinct(ask: Callable[[], Turn], turns: int) -> tuple[Turn, ...]:
    """Up to `turns` different questions; a clip has only five, so the tries are bounded."""
    found: dict[str, Turn] = {}
    for _ in range(4 * turns):
        turn = ask()
        found.setdefault(turn.question, turn)
        if len(found) == turns:
            break
    return tuple(found.values())


def _written(dialogue: _Dialogue) -> str:
    """The dialogue in the original's format; the last answer ends the text."""
    lines = [SYSTEM, *(f"Human: {line}" for line in dialogue.context)]
    for turn in dialogue.turns:
        lines += [f"Human: {turn.question}", f"AI: {turn.answer}"]
    return "\n".join(lines)


def _check_kinds(found: Collection[str], known: Sequence[str]) -> None:
    unknown = [kind for kind in found if kind not in known]
    if unknown or not found:
        raise UserError(
            f"Synthetic kinds are {list(found)}; give one or more of {', '.join(known)}."
        )


def _check_split(split: str) -> None:
    if split not in SPLITS:
        raise UserError(f"Synthetic split is {split!r}; give one of {', '.join(SPLITS)}.")
