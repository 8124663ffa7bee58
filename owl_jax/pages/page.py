"""Renders HTML pages as single files with embedded pictures.

Pages fetch nothing. Templates extend base.html, which supports light and dark
mode and narrow screens. parts.html has shared macros.
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
from owl_jax.pages.chart import Chart

# Used with full chroma resolution, which keeps the edges of small drawings sharp.
_QUALITY = 80


@dataclass(frozen=True)
class Share:
    """A row of a bar table: a share between 0 and 1. inner: indented, and its bar grey."""

    label: str
    value: float
    inner: bool = False


def render(package: str, template: str, **values: Any) -> str:
    """Renders a template to a whole file; escapes the values.

    Control characters, which HTML does not allow, are written as `\\x1b`.

    Args:
      package: the package whose templates/ has the template.
      template: its file name.
      values: the template's variables.
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


def drawing(chart: Chart) -> str:
    """A chart with values as an SVG file of its own, with its title, its words and its colours.

    Where it is shown as a picture, light or dark is the reader's system's choice.
    """
    width, height = map(float, chart.svg.split('"', 2)[1].split()[2:])
    return render(__package__, "drawing.html", chart=chart, width=width, height=height)


def count(number: int, noun: str) -> str:
    """1 record, 2,000 records."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def picture(image: Image.Image, alt: str, thumbnail: int = 0) -> Markup:
    """An <img> with the picture embedded as PNG, or as a JPEG thumbnail.

    thumbnail: maximum pixels of the longer side; 0: no thumbnail.
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
