"""Pictures inside a page: the bytes of the file stand in its <img>."""

from __future__ import annotations

import base64
import io
from html import escape

from PIL import Image

# With colour in full resolution, which keeps the edges of small drawings.
_QUALITY = 80


def picture(image: Image.Image, alt: str, thumbnail: int = 0) -> str:
    """The picture as it is (PNG), or as a thumbnail (JPEG).

    alt: what it is, for who cannot see it. thumbnail: pixels of its longer side at most; 0: none.
    """
    file = io.BytesIO()
    if thumbnail:
        image = image.convert("RGB")
        image.thumbnail((thumbnail, thumbnail))
        image.save(file, "JPEG", quality=_QUALITY, subsampling=0, optimize=True)
    else:
        image.save(file, "PNG")
    kind = "jpeg" if thumbnail else "png"
    data = base64.b64encode(file.getvalue()).decode("ascii")
    return (
        f'<img src="data:image/{kind};base64,{data}" alt="{escape(alt)}" '
        f'width="{image.width}" height="{image.height}">'
    )
