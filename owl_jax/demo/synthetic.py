"""The embedded data set: conversations about rendered scenes, and text-only ones, from a seed.

Kinds of examples, multimodal or text-only:

    caption          a picture and its exhaustive caption, by place
    vqa              a picture, several questions: colour, shape, count, position, comparison
    two_images       two pictures, several questions that need both or name one of them
    video            four frames of one moving object, several questions
    video_caption    four frames and their caption
    text_scene, text_two_images, text_video   the same questions about a scene described in words
    text_caption     a caption as the answer, without a scene
    text_description a scene told in words, then told again by place, by colour or both; a fifth
                     of them are clips
    text_math        additions and subtractions
    text_facts       a closed list of general facts

owl_jax/demo/scenes.py splits scenes and clips, drawn or described, into training and held-out ones;
owl_jax/demo/knowledge.py splits arithmetic and facts.
"""

import math
import operator
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from owl_jax.data.sources.custom import CustomSource
from owl_jax.demo.dialogues import Dialogue, check_kinds, check_split, compose, write
from owl_jax.demo.drawing import render, render_clip
from owl_jax.demo.scene_questions import ABILITIES
from owl_jax.errors import UserError


@dataclass(frozen=True)
class SyntheticSource(CustomSource):
    """Random access to `size` examples; example i depends only on i and the settings.

    kinds: weight of each kind of example (any positive scale). split: "train" or "heldout".
    image_size: pixels of a side of a picture or frame. turns: maximum questions in an example.
    abilities: weights of the questions about one scene, {"colour", "shape", "count", "position",
    "comparison": weight}; 1 where none is given.
    Raises UserError for an invalid setting.
    """

    name = "synthetic"

    kinds: Mapping[str, float]
    split: str = "train"
    size: int = 100_000
    seed: int = 0
    image_size: int = 96
    turns: int = 4
    abilities: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_kinds(self.kinds)
        check_split(self.split)
        if unknown := sorted(self.abilities.keys() - set(ABILITIES)):
            raise UserError(f"Synthetic abilities are {unknown}; give some of {ABILITIES}.")
        if not all(0 < weight < math.inf for weight in self.abilities.values()):
            raise UserError(
                f"Weights of the synthetic abilities are {dict(self.abilities)}; "
                "give finite weights above zero."
            )
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

    def open(self) -> "SyntheticSource":
        """Returns itself: there is nothing to open."""
        return self

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Example `index`: "text", "images", "videos" and "task_type" (the kind)."""
        index = operator.index(index)
        kind, dialogue, rng = self._dialogue(index)
        return {
            "text": write(dialogue),
            "images": [render(scene, self.image_size, rng) for scene in dialogue.scenes],
            "videos": [render_clip(clip, self.image_size, rng) for clip in dialogue.clips],
            "task_type": kind,
        }

    def _dialogue(self, index: int) -> tuple[str, Dialogue, random.Random]:
        """Kind and dialogue of an example, and the random generator for its pictures."""
        if not 0 <= index < self.size:
            raise IndexError(f"example {index} of {self.size}")
        # Python hashes a text seed with SHA-512: generators are the same in every process, and
        # unrelated for neighbouring examples.
        key = f"record {self.seed} {self.split} {index}"
        # Sorted, since a mapping read from JSON may have another order.
        names, weights = zip(*sorted(self.kinds.items()), strict=True)
        (kind,) = random.Random(key).choices(names, weights)
        # The seed contains the kind, so that sources of other kinds with this seed differ.
        rng = random.Random(f"{key} {kind}")
        return kind, compose(kind, rng, self.split, self.turns, self.abilities), rng


def iter_texts(source: SyntheticSource) -> Iterator[str]:
    """The texts of all examples in order, without drawing pictures, to train a tokenizer on."""
    for index in range(len(source)):
        _, dialogue, _ = source._dialogue(index)
        yield write(dialogue)
