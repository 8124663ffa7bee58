"""OwlConfig: the frozen config of a whole model, one config per part.

Every field is hashable, so a config can be a static argument of `jax.jit`. The fields' types
include the allowed ranges (models/bounds.py); `OwlConfig.from_dict` checks values from a file.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from numbers import Integral
from typing import Any

from owl_jax.errors import UserError, listed, shown
from owl_jax.media.resizing import SQUASH, Resizing
from owl_jax.models.bounds import checked
from owl_jax.models.connectors import CONNECTORS
from owl_jax.models.hf_config import special_ids_of
from owl_jax.models.language import LANGUAGE_MODELS
from owl_jax.models.lora import LoraConfig
from owl_jax.models.parts import ConnectorPart, LanguagePart, Part, VisionPart, faults_told
from owl_jax.models.vision import VISION_ENCODERS
from owl_jax.text.formats import OWL
from owl_jax.text.formats.choose import name_problem
from owl_jax.text.formats.format import Format
from owl_jax.text.media_index import MediaLengths

_MAX_PARAMETERS = 2e12  # twice the largest published models

# Part classes by subtree, in the order of the data flow: the built-in ones and those that
# models/own_parts.py adds.
PARTS: Mapping[str, Mapping[str, type[Part]]] = {
    "vision": VISION_ENCODERS,
    "connector": CONNECTORS,
    "llm": LANGUAGE_MODELS,
}

_OPTIONAL = ("vision", "connector")  # null in a plain language model


@dataclass(frozen=True)
class OwlConfig:
    """A whole model.

    vision, connector: None for a plain language model, which takes text only.
    lora: None for a model without an adapter.
    resizing: how images become squares.
    conversation: the name of its conversation format, or a format of its own (text/formats/).
    """

    vision: VisionPart | None
    connector: ConnectorPart | None
    llm: LanguagePart
    lora: LoraConfig | None = None
    resizing: Resizing = SQUASH
    conversation: str | Format = OWL.name

    def num_tokens(self, medium: str, frames: int = 1) -> int:
        """Tokens that a medium ("image", or "video" of `frames` frames) takes in a sequence.

        Raises UserError for any other medium, for a model that takes text only, and for a connector
        that fails or gives none.
        """
        if medium not in ("image", "video"):
            raise UserError(f"medium {medium!r}; expected image or video")
        if self.vision is None or self.connector is None:
            raise UserError(f"this language model has no vision encoder: it takes no {medium}s")
        frames = 1 if medium == "image" else max(frames, 1)
        with faults_told(self.connector, self.vision):
            number = self.connector.num_tokens(self.vision, frames)
        if isinstance(number, bool) or not isinstance(number, Integral) or number < 1:
            raise UserError(
                f"connector {self.connector.architecture}: num_tokens of {frames} frame(s) is "
                f"{shown(number)}; expected a whole number, at least 1"
            )
        return int(number)  # NumPy's integers are no int, which msgspec and json need

    def media_lengths(self, frames: int = 1) -> MediaLengths:
        """Tokens per image and per video of `frames` frames; 0 if the model takes text only."""
        if self.text_only:
            return MediaLengths(0, 0)
        return MediaLengths(self.num_tokens("image"), self.num_tokens("video", frames))

    @property
    def text_only(self) -> bool:
        """Whether the model is a plain language model."""
        return self.vision is None

    @property
    def image_size(self) -> int:
        """The side of the pictures in pixels; 0 if the model takes text only."""
        return 0 if self.vision is None else self.vision.image_size

    @property
    def parts(self) -> dict[str, Part]:
        """The parts that the model has, by subtree, in the order of the data flow."""
        parts = {name: getattr(self, name) for name in PARTS}
        return {name: part for name, part in parts.items() if part is not None}

    @property
    def num_query_tokens(self) -> int:
        """The learned queries of an abstractor: an image's tokens without the end vector.

        Raises UserError for a model without such a connector.
        """
        number: int | None = getattr(self.connector, "num_query_tokens", None)
        if number is None:
            raise UserError(
                "this model has no num_query_tokens: only an abstractor has learned queries; "
                'num_tokens("image") gives the tokens of an image'
            )
        return number

    def problems(self) -> list[str]:
        """Inconsistent or absurd sizes, one line each; empty for a valid model.

        Raises UserError for a user's own part that fails.
        """
        with faults_told(*self.parts.values()):
            return self._problems()

    def _problems(self) -> list[str]:
        problems = [
            line
            for name, part in self.parts.items()
            for line in _lines(part.problems(name), part, "problems")
        ]
        if self.vision is not None and self.connector is not None:
            found = self.connector.mismatches(self.vision, self.llm.hidden_size)
            problems += _lines(found, self.connector, "mismatches")
        elif self.vision is not None or self.connector is not None:
            missing = "vision encoder" if self.vision is None else "connector"
            problems.append(f"it has no {missing}; expected both vision and connector, or neither")
        number = sum(part.num_parameters() for part in self.parts.values())
        if number > _MAX_PARAMETERS:
            problems.append(
                f"it would have {number:.1e} parameters; expected at most {_MAX_PARAMETERS:.0e}"
            )
        if not problems and not self.text_only:
            try:
                self.media_lengths()
            except UserError as error:
                problems.append(str(error))
        return problems

    def to_dict(self) -> dict[str, Any]:
        """A JSON-serialisable dict; `OwlConfig.from_dict` reads it back."""
        return dataclasses.asdict(self)

    @staticmethod
    def from_dict(values: dict[str, Any]) -> OwlConfig:
        """The inverse of `to_dict`; missing fields of a part get their defaults.

        Raises TypeError, one line, for a value of the wrong type or out of range, an unknown field
        or a missing part. It does not check sizes against each other; `problems` does.
        """
        if not isinstance(values, dict):
            raise TypeError(f"the model is {type(values).__name__}; expected a JSON object")
        absent = {name for name in _OPTIONAL if name in values and values[name] is None}
        for name in PARTS:
            if name not in absent and not isinstance(values.get(name), dict):
                raise TypeError(f"no value for {name!r}; expected {', '.join(PARTS)}")
        known = {field.name for field in dataclasses.fields(OwlConfig)}
        if unknown := sorted(map(str, values.keys() - known)):
            raise TypeError(f"unknown key {listed(map(shown, unknown))}")
        parts: dict[str, Any] = {
            name: None if name in absent else _part(values[name], name, kinds)
            for name, kinds in PARTS.items()
        }
        lora = values.get("lora")
        return OwlConfig(
            **parts,
            lora=None if lora is None else checked(lora, LoraConfig, "lora"),
            resizing=checked(values.get("resizing", {}), Resizing, "resizing"),
            conversation=read_conversation(values.get("conversation", OWL.name)),
        )


def read_conversation(value: Any) -> str | Format:
    """The value of OwlConfig.conversation from a file: a name, or the fields of a format.

    Raises TypeError, one line, for an unknown name or a wrong field.
    """
    kind: Any = Format if isinstance(value, dict) else str
    conversation: str | Format = checked(value, kind, "conversation")
    if problem := name_problem(conversation):
        raise TypeError(problem)
    return conversation


def _part(values: dict[str, Any], name: str, kinds: Mapping[str, type[Part]]) -> Part:
    # The first release did not write this key: it had only one part of each kind, now the first.
    architecture = values.get("architecture", next(iter(kinds)))
    if not isinstance(architecture, str) or architecture not in kinds:
        raise TypeError(
            f"{name}.architecture is {shown(architecture)}; expected {' or '.join(kinds)}, or a "
            "part of your own, from a file named in config.parts, --parts or load(parts=...)"
        )
    return checked(values, kinds[architecture], name)


def _lines(found: Any, part: Part, method: str) -> list[str]:
    """What `problems` or `mismatches` of a part returned. Raises UserError unless it is a list."""
    if isinstance(found, Iterable) and not isinstance(found, str):
        return list(map(str, found))
    raise UserError(
        f"{method} of {type(part).__name__} returned {shown(found)}; expected a list of lines, [] "
        "if nothing is wrong"
    )


def id_problems(llm: LanguagePart) -> list[str]:
    """Special ids outside the vocabulary, one line each."""
    return [
        f"{name} is {value}; expected an id below {llm.vocab_size}, the vocabulary size"
        for name, value in special_ids_of(llm).items()
        if not 0 <= value < llm.vocab_size
    ]
