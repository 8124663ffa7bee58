"""Reads preprocessor_config.json, which describes a model's image processing.

The channel statistics always come from the file. Some families also read the resizing
(media/resizing.py) from it. The others keep the resizing of the model config: LLaVA's original
format sets it in config.json, and mPLUG-Owl's code ignores the file's resizing. A file that asks
for any other processing is refused.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, cast

from msgspec import Meta, Struct

from owl_jax.errors import UserError, shown
from owl_jax.files import read_json
from owl_jax.media.resizing import Resizing
from owl_jax.models.bounds import Channels, ChannelScales, Pixels
from owl_jax.models.config import OwlConfig
from owl_jax.models.hf_config import Source
from owl_jax.models.parts import VisionPart

FILE = "preprocessor_config.json"
# transformers 5 writes the same keys in a section of this file.
_PROCESSOR_FILE = "processor_config.json"

_Filter = Literal["bicubic", "bilinear"]
_FILTERS: Mapping[int, _Filter] = {2: "bilinear", 3: "bicubic"}  # PIL.Image.Resampling
_Sides = Annotated[dict[str, Pixels | None], Meta(max_length=10)]


class _Preprocessor(Struct, frozen=True):
    """Keys of transformers' image processors for CLIP, SigLIP and LLaVA."""

    image_mean: Channels | None = None
    image_std: ChannelScales | None = None
    size: Pixels | _Sides | None = None
    crop_size: Pixels | _Sides | None = None
    do_center_crop: bool | None = None
    do_pad: bool | None = None
    do_resize: bool | None = None
    do_rescale: bool | None = None
    do_normalize: bool | None = None
    resample: int | None = None
    image_grid_pinpoints: list[Any] | None = None
    rescale_factor: float | None = None


def with_preprocessor(config: OwlConfig, directory: Path, reads_resizing: bool) -> OwlConfig:
    """The config with the image processing of the preprocessor file in `directory`.

    Returns the config unchanged if there is no such file.

    reads_resizing: take the resizing from the file. If False, keep the config's resizing, but pad
      with the file's mean colour. In this case a file whose filter is not bicubic is refused.

    Raises UserError for a damaged file, a size that is not the encoder's, and unsupported steps.
    """
    path, vision = directory / FILE, config.vision
    processor = None if vision is None else _read(path, vision)
    if vision is None or processor is None:
        return config
    if reads_resizing:
        resizing = _resizing(path, processor, vision)
        config = dataclasses.replace(config, resizing=resizing)
    elif processor.resample not in (None, 3):
        raise UserError(f"{path}: resample is {processor.resample}; expected 3, bicubic")
    elif config.resizing.kind == "pad" and processor.image_mean is not None:
        fill = _mean_colour(processor.image_mean)
        config = dataclasses.replace(
            config, resizing=dataclasses.replace(config.resizing, fill=fill)
        )
    return dataclasses.replace(config, vision=_with_statistics(vision, processor))


def vision_with_preprocessor(vision: VisionPart, directory: Path) -> VisionPart:
    """The encoder with the channel statistics of `directory`.

    Resizing is not read: it belongs to the model that will use the encoder. Raises the same errors
    as `with_preprocessor`.
    """
    processor = _read(directory / FILE, vision)
    return vision if processor is None else _with_statistics(vision, processor)


def _read(path: Path, vision: VisionPart) -> _Preprocessor | None:
    """The file's values, checked against the encoder; None if there is no file."""
    if path.exists():
        source = Source(path, read_json(path))
    elif path.with_name(_PROCESSOR_FILE).exists():
        path = path.with_name(_PROCESSOR_FILE)
        source = Source(path, read_json(path)).section("image_processor")
    else:
        return None
    processor = source.read(_Preprocessor)
    for name in ("do_resize", "do_rescale", "do_normalize"):
        if getattr(processor, name) is False:
            raise UserError(f"{path}: {name} is false; expected true")
    if processor.image_grid_pinpoints:
        raise UserError(f"{path}: image_grid_pinpoints cuts images into tiles; not supported")
    # `not <=` instead of `>`, so that NaN is refused, too.
    if processor.rescale_factor is not None and not abs(processor.rescale_factor * 255 - 1) <= 1e-4:
        raise UserError(f"{path}: rescale_factor is {processor.rescale_factor}; expected 1 / 255")
    for name in ("size", "crop_size"):
        value = getattr(processor, name)
        sides = value.values() if isinstance(value, dict) else [value]
        if others := [side for side in sides if side not in (None, vision.image_size)]:
            raise UserError(
                f"{path}: {name} is {shown(value)}, but image_size in config.json is "
                f"{vision.image_size}; set both to {others[0]}, or both to {vision.image_size}"
            )
    return processor


def _with_statistics(vision: VisionPart, processor: _Preprocessor) -> VisionPart:
    statistics = {"pixel_mean": processor.image_mean, "pixel_std": processor.image_std}
    found = {name: value for name, value in statistics.items() if value is not None}
    return dataclasses.replace(cast(Any, vision), **found)


def _mean_colour(mean: Channels) -> tuple[int, int, int]:
    """The channel means as an RGB colour, rounded as in LLaVA's code."""
    red, green, blue = (min(max(int(255 * channel), 0), 255) for channel in mean)
    return red, green, blue


def _resizing(path: Path, processor: _Preprocessor, vision: VisionPart) -> Resizing:
    resample = processor.resample if processor.resample is not None else 3
    if resample not in _FILTERS:
        raise UserError(f"{path}: resample is {resample}; expected 2 (bilinear) or 3 (bicubic)")
    fill = _mean_colour(processor.image_mean or vision.pixel_mean)
    kind: Literal["squash", "pad", "crop"] = "squash"
    if processor.do_pad:
        kind = "pad"
    elif isinstance(processor.size, dict) and processor.size.get("longest_edge"):
        raise UserError(
            f"{path}: size is {shown(processor.size)}; expected height and width, or shortest_edge"
        )
    # If `size` is a number, it is the short side: CLIP's processor keeps the aspect ratio.
    elif not isinstance(processor.size, dict) or "shortest_edge" in processor.size:
        kind = "crop"
        if processor.do_center_crop is False:
            raise UserError(
                f"{path}: size is {shown(processor.size)} and do_center_crop is false, which "
                "leaves images that are not square; set do_center_crop to true"
            )
    return Resizing(kind, _FILTERS[resample], fill)
