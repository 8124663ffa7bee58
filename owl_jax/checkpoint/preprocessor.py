"""Reads preprocessor_config.json, which describes a model's image processing.

Channel statistics are adopted. The rest is fixed (media/image.py): a bicubic resize of the whole
image to a square and division by 255. A file that asks for anything else is refused.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Any, cast

from msgspec import Meta, Struct

from owl_jax.errors import UserError, shown
from owl_jax.files import read_json
from owl_jax.models.bounds import Channels, ChannelScales, Pixels
from owl_jax.models.hf_config import Source
from owl_jax.models.parts import VisionPart

FILE = "preprocessor_config.json"

_BICUBIC = 3  # PIL.Image.Resampling
_Sides = Annotated[dict[str, Pixels | None], Meta(max_length=10)]


class _Preprocessor(Struct, frozen=True):
    """Keys of CLIPImageProcessor (transformers), the base class of the original's processor."""

    image_mean: Channels | None = None
    image_std: ChannelScales | None = None
    size: Pixels | _Sides | None = None
    crop_size: Pixels | _Sides | None = None
    do_resize: bool | None = None
    do_rescale: bool | None = None
    do_normalize: bool | None = None
    resample: int | None = None
    rescale_factor: float | None = None


def with_preprocessor(vision: VisionPart, directory: Path) -> VisionPart:
    """The encoder with the channel statistics of `directory`, if it has the file.

    Raises UserError for a damaged file, a size that is not the encoder's, and unsupported steps.
    """
    path = directory / FILE
    if not path.exists():
        return vision
    source = Source(path, read_json(path))
    processor = source.read(_Preprocessor)
    for name in ("do_resize", "do_rescale", "do_normalize"):
        if getattr(processor, name) is False:
            raise UserError(f"{path}: {name} is false; expected true")
    if processor.resample not in (None, _BICUBIC):
        raise UserError(f"{path}: resample is {processor.resample}; expected {_BICUBIC}, bicubic")
    # Written so that NaN is refused, too.
    if processor.rescale_factor is not None and not abs(processor.rescale_factor * 255 - 1) <= 1e-4:
        raise UserError(f"{path}: rescale_factor is {processor.rescale_factor}; expected 1 / 255")
    for name in ("size", "crop_size"):
        value = getattr(processor, name)
        sides = value.values() if isinstance(value, dict) else [value]
        if others := [side for side in sides if side not in (None, vision.image_size)]:
            raise UserError(
                f"{path}: {name} is {shown(value)}, but config.json has image_size "
                f"{vision.image_size}; expected {others[0]} in both, or {vision.image_size}"
            )
    statistics = {"pixel_mean": processor.image_mean, "pixel_std": processor.image_std}
    found = {name: value for name, value in statistics.items() if value is not None}
    return dataclasses.replace(cast(Any, vision), **found)
