"""An HTML page that is one file: templates filled in, pictures inside of it.

Nothing is fetched from anywhere and nothing needs a script. Templates extend base.html, which
follows the reader's light or dark mode and a phone's width. parts.html has what several pages draw.
"""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from typing import Any

import jinja2
from markupsafe import Markup
from PIL import Image

from owl_jax.errors import printable

# With colour in full resolution, which keeps the edges of small drawings.
_QUALITY = 80


@dataclass(frozen=True)
class Share:
    """A row of a bar table: a share between 0 and 1. inner: indented, and its bar grey."""

    label: str
    value: float
    inner: bool = False


def render(package: str, template: str, **values: Any) -> str:
    """Fills in a template; what stands in `values` is escaped.

    Control characters, which HTML does not take, are written as `\\x1b`.

    Args:
      package: the package whose templates/ holds the template.
      template: its file name.
      values: by the names that the template has for them.

    Returns:
      The whole file.
    """
    environment = jinja2.Environment(
        loader=jinja2.ChoiceLoader([jinja2.PackageLoader(p) for p in (package, __package__)]),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters.update(number=format, count=count)
    environment.globals.update(picture=picture)
    return printable(environment.get_template(template).render(values), keep="\n\t")


def count(number: int, noun: str) -> str:
    """1 record, 2,000 records."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def picture(image: Image.Image, alt: str, thumbnail: int = 0) -> Markup:
    """The picture as it is (PNG), or as a thumbnail (JPEG), inside its <img>.

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
    return Markup('<img src="data:image/{};base64,{}" alt="{}" width="{}" height="{}">').format(
        kind, data, alt, image.width, image.height
    )
