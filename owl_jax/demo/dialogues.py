"""Conversations of the embedded data set by kind, before their scenes are drawn."""

import random
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from owl_jax.demo.knowledge import FACTS, PROBLEMS
from owl_jax.demo.scene_questions import Turn, ask_clip, ask_scene, ask_two_scenes
from owl_jax.demo.scenes import (
    SPLITS,
    Clip,
    Scene,
    by_name,
    caption,
    clip_caption,
    listing,
    sample_clip,
    sample_scene,
)
from owl_jax.errors import UserError
from owl_jax.text.turns import SYSTEM

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

# Captions are ordered by place; listings by colour, then by shape.
_CAPTION_PROMPTS = ("Describe the {}.", "What does the {} show?")
_LISTING_PROMPTS = ("List the objects in the {}.", "What is in the {}?")

_CLIP_SHARE = 0.2  # of the descriptions


@dataclass(frozen=True)
class Dialogue:
    """A conversation before it is written and drawn.

    context: the human's lines before the turns. later: the human's lines before the last turn.
    """

    context: tuple[str, ...]
    turns: tuple[Turn, ...]
    scenes: tuple[Scene, ...] = ()
    clips: tuple[Clip, ...] = ()
    later: tuple[str, ...] = ()


def compose(
    kind: str,
    rng: random.Random,
    split: str,
    turns: int,
    abilities: Mapping[str, float] = MappingProxyType({}),
) -> Dialogue:
    """A dialogue of a kind about scenes of a split, with at most `turns` questions.

    abilities: weights of questions about one scene, as in `ask_scene`.
    """
    match kind:
        case "text_caption":
            turn = Turn("", "Describe a scene.", caption(sample_scene(rng, split)))
            return Dialogue((), (turn,))
        case "caption":
            scene = sample_scene(rng, split)
            turn = Turn("", rng.choice(_CAPTION_PROMPTS).format("image"), caption(scene))
            return Dialogue(("<image>",), (turn,), scenes=(scene,))
        case "text_description" if rng.random() < _CLIP_SHARE:
            clip = sample_clip(rng, split)
            turn = Turn("", rng.choice(_CAPTION_PROMPTS).format("video"), clip_caption(clip))
            return Dialogue((f"The video shows {clip_caption(clip)}",), (turn,))
        case "text_description":
            scene = sample_scene(rng, split)
            tellings = (
                (_CAPTION_PROMPTS, caption(scene)),
                (_LISTING_PROMPTS, listing(by_name(scene))),
            )
            told = tuple(
                Turn("", rng.choice(prompts).format("image"), words)
                for prompts, words in rng.sample(tellings, min(turns, 2))
            )
            return Dialogue((f"The image shows {_told(rng, scene)}",), told)
        case "video_caption":
            clip = sample_clip(rng, split)
            prompt = rng.choice(_CAPTION_PROMPTS).format("video")
            return Dialogue(("<|video|>",), (Turn("", prompt, clip_caption(clip)),), clips=(clip,))
        case "vqa" | "text_scene":
            scene = sample_scene(rng, split)
            asked = _distinct(lambda: ask_scene(rng, scene, abilities), turns)
            if kind == "vqa":
                return Dialogue(("<image>",), asked, scenes=(scene,))
            return Dialogue((f"The image shows {_told(rng, scene)}",), asked)
        case "two_images" | "text_two_images":
            pair = sample_scene(rng, split), sample_scene(rng, split)
            asked = _distinct(lambda: ask_two_scenes(rng, pair), turns)
            if kind == "two_images":
                return Dialogue(("<image>", "<image>"), asked, scenes=pair)
            first, second = (_told(rng, scene) for scene in pair)
            words = f"The first image shows {first}", f"The second image shows {second}"
            return Dialogue(words, asked)
        case "video" | "text_video":
            clip = sample_clip(rng, split)
            asked = _distinct(lambda: ask_clip(rng, clip), turns)
            if kind == "video":
                return Dialogue(("<|video|>",), asked, clips=(clip,))
            return Dialogue((f"The video shows {clip_caption(clip)}",), asked)
        case "text_math":
            return Dialogue((), _distinct(lambda: rng.choice(PROBLEMS[split]), turns))
        case "text_facts":
            return Dialogue((), _distinct(lambda: rng.choice(FACTS[split]), turns))
        case _:
            raise ValueError(f"no such kind: {kind}")


def write(dialogue: Dialogue) -> str:
    """The dialogue in the original's format; the last answer ends the text."""
    lines = [SYSTEM, *(f"Human: {line}" for line in dialogue.context)]
    for turn in dialogue.turns:
        if turn is dialogue.turns[-1]:
            lines += [f"Human: {line}" for line in dialogue.later]
        lines += [f"Human: {turn.question}", f"AI: {turn.answer}"]
    return "\n".join(lines)


def check_kinds(found: Collection[str], known: Sequence[str] = KINDS) -> None:
    """Raises UserError unless `found` names one or more of the known kinds."""
    unknown = [kind for kind in found if kind not in known]
    if unknown or not found:
        raise UserError(
            f"Synthetic kinds are {list(found)}; give one or more of {', '.join(known)}."
        )


def check_split(split: str) -> None:
    """Raises UserError for an unknown split."""
    if split not in SPLITS:
        raise UserError(f"Synthetic split is {split!r}; give one of {', '.join(SPLITS)}.")


def _told(rng: random.Random, scene: Scene) -> str:
    """The scene in words, its objects in random order, so that the order gives nothing away."""
    return caption(rng.sample(scene, len(scene)))


def _distinct(ask: Callable[[], Turn], turns: int) -> tuple[Turn, ...]:
    """Up to `turns` different questions. Tries are limited, since a clip has only five."""
    found: dict[str, Turn] = {}
    for _ in range(4 * turns):
        turn = ask()
        found.setdefault(turn.question, turn)
        if len(found) == turns:
            break
    return tuple(found.values())
