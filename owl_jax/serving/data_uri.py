"""Data URIs: `data:image/png;base64,...`, the form in which clients send files."""

from __future__ import annotations

import base64
import binascii

from owl_jax.errors import shown
from owl_jax.serving.errors import ApiError

FRAMES_TYPE = "video/jpeg"  # frames as base64, separated by commas, as vLLM's clients send them


def is_data_uri(text: str) -> bool:
    """Whether `text` is a data URI, well-formed or not."""
    return text[:5].lower() == "data:"


def read_data_uri(uri: str, param: str) -> bytes | list[bytes]:
    """The bytes of a data URI, or those of each frame if its type is FRAMES_TYPE.

    param: the field that holds it. Raises ApiError for damaged base64 and any other encoding.
    """
    header, comma, body = uri.partition(",")
    if not comma or not header.lower().endswith(";base64"):
        raise ApiError(
            400,
            f"{param} is {shown(uri)}; expected data:image/png;base64,...",
            param=param,
            code="invalid_media",
        )
    if header[5:].lower().startswith(FRAMES_TYPE):
        return [_decoded(frame, param) for frame in body.split(",")]
    return _decoded(body, param)


def _decoded(text: str, param: str) -> bytes:
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        message = f"{param} holds damaged base64 ({error})"
        raise ApiError(400, message, param=param, code="invalid_media") from None
    if not data:
        raise ApiError(400, f"{param} holds no data", param=param, code="invalid_media")
    return data
