import base64
import io
import re
from xml.etree import ElementTree

import numpy as np
import pytest
from html_page import Page
from jinja2 import UndefinedError
from PIL import Image

from owl_jax.pages.chart import Line, line_chart
from owl_jax.pages.page import Share, count, drawing, picture, render

TEMPLATE = """{% extends "base.html" %}
{% from "parts.html" import bar_table, figure %}
{% block style %}.mine { color: red; }
{% endblock %}
{% block body %}
<p title="{{ text }}">{{ text }}</p>{{ bar_table(shares) }}{{ figure(chart) }}
{% endblock %}
"""
CHART = line_chart("<i>", [Line("<u>", [1], [1.0]), Line("b", [1], [1.0])])


@pytest.fixture
def shown(tmp_path, monkeypatch):
    """Fills in the template above, as a page of a package of its own, and reads it."""
    (tmp_path / "paged" / "templates").mkdir(parents=True)
    (tmp_path / "paged" / "__init__.py").touch()
    (tmp_path / "paged" / "templates" / "own.html").write_text(TEMPLATE)
    monkeypatch.syspath_prepend(tmp_path)

    def make(text, shares=(), chart=CHART):
        html = render("paged", "own.html", title="A <b> & c", text=text, shares=shares, chart=chart)
        (tmp_path / "page.html").write_text(html, encoding="utf-8")
        return Page(tmp_path / "page.html")

    return make


def test_the_frame_of_a_page(shown):
    page = shown("Body")
    assert page.within("title")[0] == page.within("h1")[0] == "A <b> & c"
    assert page.within("p") == ["Body"]
    assert page.style.endswith(".mine { color: red; }\n")
    assert "prefers-color-scheme: dark" in page.style
    assert {"name": "viewport", "content": "width=device-width, initial-scale=1"} in page.all(
        "meta"
    )
    assert page.fetched() == []


def test_all_text_is_escaped(shown):
    nasty = "<script>alert(\"&amp;')</script>"
    page = shown(nasty, [Share(nasty, 0.5)])
    assert page.all("script") == page.all("b") == page.all("i") == page.all("u") == []
    assert page.within("p") == page.within("th") == [nasty]
    assert page.all("p")[0]["title"] == nasty
    assert page.within("figcaption") == ["<i>"]
    assert page.within("text")[-2:] == ["<u>", "b"]


def test_control_characters_are_seen(shown):
    page = shown("a\0b\x1b[2Jc\rd\u202ee\ud800f\tg\nh")
    assert page.within("p") == ["a\\x00b\\x1b[2Jc\\rd\\u202ee\\ud800f\tg\nh"]


def test_a_table_of_shares_has_bars_of_their_width(shown):
    page = shown("", [Share("a <1>", 0.25), Share("b", 1.0, inner=True)])
    assert "a <1> 25.0% b 100.0%" in page.text
    styles = [bar["style"] for bar in page.all("div") if "style" in bar]
    assert styles == ["width:25.0%", "width:100.0%"]
    assert [row["class"] for row in page.all("tr")] == ["main", "inner"]


def test_a_chart_without_values_says_so(shown):
    assert "Empty No values." in shown("", chart=line_chart("Empty", [])).text


def test_a_drawing_as_a_file_of_its_own():
    """Whole XML, with its words for those who cannot see it, and colours for light and dark."""
    file = drawing(CHART)
    root = ElementTree.fromstring(file)
    svg = "{http://www.w3.org/2000/svg}"
    assert root.tag == f"{svg}svg" and root.get("role") == "img"
    assert root.get("viewBox") == f"0 0 {root.get('width')} {root.get('height')}"
    named = {child.get("id"): child.text for child in root}
    assert [named[name] for name in root.get("aria-labelledby").split()] == ["<i>", CHART.words]
    style = root.findtext(f"{svg}style")
    light, dark = style.split("prefers-color-scheme: dark")
    for color in set(re.findall(r"var\((--[\w-]+)\)", file)):
        assert f"{color}: #" in light and f"{color}: #" in dark
    assert root.find(f"{svg}svg").get("viewBox") == "0 0 360 220"


def test_a_value_that_the_template_misses_is_an_error(shown):
    with pytest.raises(UndefinedError, match="'text' is undefined"):
        render("paged", "own.html", title="", shares=[], chart=CHART)


def test_counts():
    assert [count(n, "row") for n in (0, 1, 2000)] == ["0 rows", "1 row", "2,000 rows"]


def file_of(tag):
    """The file in a tag, and its kind."""
    kind, data = re.fullmatch(r'<img src="data:image/(\w+);base64,([^"]*)" .*>', tag).groups()
    return kind, Image.open(io.BytesIO(base64.b64decode(data, validate=True)))


def noise(width, height):
    values = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    return Image.fromarray(values)


def test_a_picture_as_it_is():
    image = noise(12, 9)
    kind, found = file_of(picture(image, "it"))
    assert kind == "png"
    np.testing.assert_array_equal(np.asarray(found), np.asarray(image))


def test_a_thumbnail_keeps_the_shape_and_the_original():
    image = noise(200, 100)
    tag = picture(image, "it", thumbnail=80)
    kind, found = file_of(tag)
    assert kind == "jpeg" and found.size == (80, 40)
    assert 'width="80" height="40"' in tag
    assert image.size == (200, 100)


def test_a_small_picture_is_not_enlarged_and_keeps_its_colors():
    image = Image.new("RGB", (32, 32), (200, 30, 40))
    image.paste((20, 60, 220), (8, 8, 16, 16))
    _, found = file_of(picture(image, "it", thumbnail=80))
    difference = np.abs(np.asarray(found, int) - np.asarray(image, int))
    assert found.size == (32, 32) and difference.mean() < 3


def test_the_description_of_a_picture_is_escaped():
    assert 'alt="&lt;a&gt; &#34;b&#34;"' in picture(noise(2, 2), '<a> "b"')
