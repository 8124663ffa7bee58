from html_page import Page

from owl_jax.pages.page import Share, bar_table, grid, page


def read(tmp_path, text):
    (tmp_path / "page.html").write_text(text, encoding="utf-8")
    return Page(tmp_path / "page.html")


def test_the_frame_of_a_page(tmp_path):
    found = read(tmp_path, page("A <b> & c", "<p>Body</p>", ".mine { color: red; }"))
    assert found.within("title") == found.within("h1") == ["A <b> & c"]
    assert found.within("p") == ["Body"]
    assert found.style.endswith(".mine { color: red; }")
    assert "prefers-color-scheme: dark" in found.style
    assert {"name": "viewport", "content": "width=device-width, initial-scale=1"} in found.all(
        "meta"
    )
    assert found.fetched() == []


def test_a_table_of_shares_has_bars_of_their_width(tmp_path):
    table = bar_table([Share("a <1>", 0.25), Share("b", 1.0, inner=True)])
    found = read(tmp_path, page("Shares", grid([table])))
    assert "a <1> 25.0% b 100.0%" in found.text
    assert [bar.get("style") for bar in found.all("div")[1:]] == ["width:25.0%", "width:100.0%"]
    assert [row["class"] for row in found.all("tr")] == ["main", "inner"]
