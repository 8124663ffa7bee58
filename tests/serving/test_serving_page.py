"""The page at /, in a browser. The server is real; the engine answers from a script."""

import base64
import io
import json
import re
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest
from browser import chromium
from PIL import Image
from playwright.sync_api import expect
from served import Served, png, until

from owl_jax.serving.settings import Limits, Settings

ANSWER = "An owl. It sits on a branch."
RED, BLUE = (200, 30, 30), (20, 40, 200)


@pytest.fixture(scope="module")
def browser():
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def served(owl, tmp_path_factory):
    votes = tmp_path_factory.mktemp("votes") / "votes.jsonl"
    settings = Settings(Limits(images=3, body_bytes=4 << 20), votes_file=str(votes))
    with Served(
        owl, settings=settings, adapters=("birds",), row_length=1024, frames=(4, 8)
    ) as served:
        yield served


class Page:
    """A tab with the page. Nothing may leave the server, and nothing may be reported as wrong."""

    def __init__(self, browser, served, faults=(), **options):
        self.served, self.expected = served, faults
        self.context = browser.new_context(**{"viewport": {"width": 900, "height": 600}, **options})
        self.requested, self.faults = [], []
        self.context.on("request", lambda request: self.requested.append(request.url))
        self.context.on("weberror", lambda error: self.faults.append(str(error.error)))
        self.context.on("console", self._heard)
        self.tab = self.open()

    def open(self):
        tab = self.context.new_page()
        tab.set_default_timeout(10_000)
        tab.goto(self.served.url)
        tab.locator(":focus").wait_for()
        return tab

    def _heard(self, message):
        if message.type in ("error", "warning"):
            self.faults.append(message.text)

    def close(self):
        self.context.close()
        own = (f"{self.served.url}/", f"blob:{self.served.url}/", "data:")
        assert [url for url in self.requested if not url.startswith(own)] == []
        assert [
            each for each in self.faults if not re.search("|".join(self.expected) or "$^", each)
        ] == []

    def attach(self, *files):
        """Chooses files, each (name, type, bytes), and waits until they are read."""
        before = self.tab.locator("#attached .thumbnail").count()
        self.tab.set_input_files(
            "#files",
            [{"name": name, "mimeType": kind, "buffer": data} for name, kind, data in files],
        )
        expect(self.tab.locator("#attached .thumbnail")).to_have_count(before + len(files))
        expect(self.tab.locator(".reading")).to_have_count(0)

    def type(self, text):
        """Asks by keyboard."""
        self.tab.fill("#question", text)
        expect(self.tab.locator("#send")).to_be_enabled()
        self.tab.press("#question", "Enter")

    def ask(self, text, answer=ANSWER):
        """Asks, and waits for the answers."""
        self.type(text)
        for each in self.last.locator(".answer").all():
            expect(each.locator(".text")).to_have_text(answer)
            expect(each).to_have_attribute("aria-busy", "false")
        expect(self.tab.locator("#stop")).to_be_hidden()

    @property
    def last(self):
        return self.tab.locator(".exchange").last

    @property
    def texts(self):
        """What is shown: questions and answers."""
        return self.tab.locator(".bubble, .answer .text").all_text_contents()


@pytest.fixture
def page(browser, served):
    """Opens a page; the engine answers ANSWER at once, unless the test wants something else."""
    opened = []

    def start(on=served, answer=ANSWER, seconds=0.0, **options):
        on.answer, on.engine.seconds = answer, seconds
        on.engine.requests.clear()
        on.engine.ended.clear()
        opened.append(Page(browser, on, **options))
        return opened[-1]

    yield start
    for each in opened:
        each.close()


def pictures(*colours):
    return [(f"{number}.png", "image/png", png(colour=each)) for number, each in enumerate(colours)]


def asked(served, index=-1):
    """A request to the engine."""
    return served.engine.requests[index]


def question_of(served, index=-1):
    """The prompt of a request, as text."""
    ids = asked(served, index).prompt.input_ids
    return served.owl.tokenizer.decode([int(id) for id in ids if id >= 0])


def test_pictures_a_stream_and_a_reload(page, served):
    opened = page(seconds=0.05)
    tab = opened.tab
    opened.attach(*pictures(RED, BLUE))
    opened.type("What do you see?")
    expect(tab.locator(".answer")).to_have_attribute("aria-busy", "true")
    lengths = set()
    while tab.locator("#stop").is_visible():
        lengths.add(len(tab.locator(".answer .text").text_content()))
    assert len(lengths) > 2, "the answer appears piece by piece"
    expect(tab.locator(".answer .text")).to_have_text(ANSWER)
    expect(tab.locator("#announcer")).to_contain_text("An owl.")
    served.engine.seconds = 0
    opened.ask("And\nnow?")
    assert len(asked(served).prompt.images) == 2, "the next turn has the pictures again"
    assert "An owl. It sits" in question_of(served)
    opened.attach(*pictures(RED))
    tab.fill("#question", "a draft")
    expect(tab.locator("#conversations")).to_contain_text("What do you see?")
    before = opened.texts
    tab.wait_for_timeout(600)  # drafts are kept when the typing pauses
    tab.reload()
    expect(tab.locator(".exchange")).to_have_count(2)
    assert opened.texts == before == ["What do you see?", ANSWER, "And\nnow?", ANSWER]
    expect(tab.locator(".question .thumbnail img")).to_have_count(2)
    expect(tab.locator("#question")).to_have_value("a draft")
    expect(tab.locator("#attached .thumbnail")).to_have_count(1)
    tab.click("#attached .icon-button")
    expect(tab.locator("#attached .thumbnail")).to_have_count(0)
    tab.locator(".question .thumbnail").first.click()
    expect(tab.locator("#viewer")).to_contain_text("0.png")


@pytest.mark.parametrize("how", ["button", "key", "delete"])
def test_stop(page, served, how):
    opened = page(answer=ANSWER * 20, seconds=0.05)
    tab = opened.tab
    opened.type("What?")
    expect(tab.locator(".answer .text")).to_contain_text("An owl")
    if how == "delete":
        tab.set_viewport_size({"width": 800, "height": 600})
        tab.click("#open-sidebar")
        tab.click("[aria-label='Delete What?']")
        tab.click("[data-agree]")
        expect(tab.locator(".exchange")).to_have_count(0)
        expect(tab.locator("#none-yet")).to_be_visible()
    else:
        tab.click("#stop") if how == "button" else tab.keyboard.press("Escape")
        expect(tab.locator(".note")).to_have_text("Stopped.")
        assert tab.locator(".answer .text").text_content().startswith("An owl")
    until(lambda: served.engine.ended == ["cancelled"])


def test_edit_answer_again_and_versions(page, served):
    opened = page()
    tab = opened.tab
    opened.attach(*pictures(RED))
    opened.ask("First")
    opened.ask("Second")
    served.answer = "Another."
    tab.locator(".exchange").first.hover()
    tab.locator("[aria-label='Edit the question']").first.click()
    tab.get_by_label("Edited question").fill("First, edited")
    tab.keyboard.press("Enter")
    expect(opened.last.locator(".answer .text")).to_have_text("Another.")
    assert opened.texts == ["First, edited", "Another."]
    assert len(asked(served).prompt.images) == 1, "an edited question keeps its picture"
    served.answer = "A third."
    tab.click("[aria-label='Answer again']")
    expect(opened.last.locator(".answer .text")).to_have_text("A third.")
    expect(tab.locator(".question .count")).to_have_text("3 / 3")
    tab.click("[aria-label='Earlier version']")
    expect(opened.last.locator(".answer .text")).to_have_text("Another.")
    tab.click("[aria-label='Earlier version']")
    expect(tab.locator(".exchange")).to_have_count(2)
    assert opened.texts == ["First", ANSWER, "Second", ANSWER], "nothing was lost"
    tab.press("#question", "ArrowUp")
    expect(tab.get_by_label("Edited question")).to_have_value("Second")
    tab.keyboard.press("Escape")
    expect(tab.get_by_label("Edited question")).to_have_count(0)


def test_two_models_side_by_side(page, served):
    opened = page(answer=lambda request: tokens(served, request.adapter or "base"))
    tab = opened.tab
    opened.type("Before")
    expect(tab.locator(".answer .text")).to_have_text("base")
    tab.click("#compare")
    for question in ("One", "Two"):
        opened.type(question)
        expect(opened.last.locator(".answer .text")).to_have_text(["base", "birds"])
        expect(tab.locator("#stop")).to_be_hidden()
    expect(opened.last.locator("h2")).to_have_text(["tiny", "birds"])
    last = {asked(served, i).adapter: question_of(served, i) for i in (-1, -2)}
    assert "birds" in last["birds"] and "birds" not in last[None], "each column is a conversation"
    left, right = (opened.last.locator(".answer").nth(i).bounding_box() for i in (0, 1))
    assert left["y"] == right["y"] and left["x"] + left["width"] <= right["x"]
    tab.reload()
    expect(tab.locator("#other-model")).to_have_value("birds")


def tokens(served, text):
    return [*served.owl.tokenizer.encode(text), served.owl.tokenizer.eos_id]


def test_refused_files(page):
    opened = page(faults=("status of 400",))
    tab = opened.tab
    opened.attach(*pictures(RED))
    tab.set_input_files(
        "#files",
        [
            {"name": "notes.png", "mimeType": "image/png", "buffer": b"not a picture"},
            {"name": "empty.jpg", "mimeType": "image/jpeg", "buffer": b""},
        ],
    )
    expect(tab.locator("#alerts")).to_contain_text("notes.png is not a picture or a video")
    expect(tab.locator("#alerts")).to_contain_text("empty.jpg is empty")
    expect(tab.locator("#attached .thumbnail")).to_have_count(1)
    opened.ask("What?")
    # What the server refuses: it takes three pictures.
    opened.attach(*pictures(RED, BLUE, RED))
    opened.type("And these?")
    expect(opened.last.locator(".note")).to_contain_text("holds more than the server takes")
    expect(opened.last.locator(".note .detail")).to_contain_text("expected at most 3")
    expect(opened.last.locator(".question .thumbnail")).to_have_count(3)


def test_failures_lose_nothing(page, served):
    opened = page(faults=("status of 400", "status of 503", "ERR_FAILED"))
    tab = opened.tab
    tab.route("**/v1/chat/completions", lambda route: route.abort())
    opened.type("Is anybody there?")
    expect(tab.locator(".note.error")).to_contain_text("The connection to the server was lost")
    tab.unroute("**/v1/chat/completions")
    served.answer = ValueError("a fault of the engine")
    tab.get_by_role("button", name="Try again").click()
    expect(tab.locator(".note.error")).to_contain_text("The server made a mistake")
    served.service.is_draining = True
    tab.get_by_role("button", name="Try again").click()
    expect(tab.locator(".note.error")).to_contain_text("The server is shutting down")
    tab.reload()
    expect(tab.locator("#notice")).to_contain_text("The server is shutting down")
    served.service.is_draining = False
    expect(tab.locator("#model")).to_be_enabled()
    served.answer = ANSWER
    tab.get_by_role("button", name="Try again").click()
    expect(tab.locator(".answer .text")).to_have_text(ANSWER)
    assert opened.texts == ["Is anybody there?", ANSWER]
    served.answer = "words " * 2000
    opened.type("Long?")
    expect(opened.last.locator(".note")).to_contain_text("cut off at the limit of tokens")
    opened.type("Too long?")
    expect(opened.last.locator(".note")).to_contain_text("too long for the model")


def test_votes(page, served):
    opened = page()
    tab = opened.tab
    opened.attach(*pictures(RED))
    opened.ask("What?")
    for label, pressed in (
        ("Good answer", "true"),
        ("Good answer", "false"),
        ("Bad answer", "true"),
    ):
        tab.click(f"[aria-label='{label}']")
        expect(tab.locator(f"[aria-label='{label}']")).to_have_attribute("aria-pressed", pressed)
    lines = Path(served.service.settings.votes_file).read_text().splitlines()
    lines = [json.loads(line) for line in lines]
    assert [line["vote"] for line in lines] == ["up", "none", "down"]
    assert len({line["id"] for line in lines}) == 1 and lines[0]["model"] == "tiny"
    question, answer = lines[0]["messages"]
    assert question["content"][0]["image_url"]["url"].startswith("data:image/png;base64,")
    assert answer["content"] == ANSWER
    tab.reload()
    expect(tab.locator("[aria-label='Bad answer']")).to_have_attribute("aria-pressed", "true")


def test_export_and_import(page, tmp_path):
    opened = page()
    tab = opened.tab
    opened.attach(*pictures(RED), ("clip.webm", "video/webm", webm()))
    opened.ask("First")
    opened.ask("Second")
    before = opened.texts
    with tab.expect_download() as download:
        tab.click("#export-this")
    path = tmp_path / "conversation.json"
    download.value.save_as(path)
    body = json.loads(path.read_text())
    assert body["format"] == "owl_jax conversations"
    assert {each["kind"] for each in body["conversations"][0]["media"]} == {"image", "video"}
    tab.click("[aria-label='Delete First']")
    tab.click("[data-agree]")
    expect(tab.locator("#none-yet")).to_be_visible()
    expect(tab.locator(".exchange")).to_have_count(0)
    tab.set_input_files("#import-file", path)
    expect(tab.locator(".exchange")).to_have_count(2)
    assert opened.texts == before
    expect(tab.locator(".question .thumbnail img")).to_have_count(2)
    opened.ask("Third")
    body["conversations"][0]["exchanges"][0]["parent"] = "nobody"
    for text in ("no JSON", "{}", json.dumps(body)):
        path.write_text(text)
        tab.set_input_files("#import-file", path)
        expect(tab.locator("#alerts .toast").last).to_contain_text("conversation")
        tab.locator("#alerts .icon-button").last.click()
    expect(tab.locator("#conversations li")).to_have_count(1)


def test_a_long_conversation(page):
    answer = {"model": "tiny", "text": "- a\n- b\n" * 20, "state": "done", "note": None}
    answer |= {"id": "x", "vote": "none", "seconds": 1, "tokens": 9}
    ids = ["", *map(str, range(200))]
    links = list(pairwise(ids))
    exchanges = [
        {"id": child, "parent": parent, "text": child, "media": [], "answers": [answer]}
        for parent, child in links
    ]
    conversation = {"id": "c", "title": "Long", "created": 1, "updated": 1, "exchanges": exchanges}
    conversation |= {"chosen": dict(links), "draft": {"text": "", "media": []}, "media": []}
    body = {"format": "owl_jax conversations", "version": 1, "conversations": [conversation]}
    opened = page()
    tab = opened.tab
    file = {"name": "long.json", "mimeType": "application/json"}
    tab.set_input_files("#import-file", {**file, "buffer": json.dumps(body).encode()})
    expect(opened.last.locator(".answer")).to_be_in_viewport()
    tab.hover("#scroller")
    tab.mouse.wheel(0, -3000)
    expect(opened.last.locator(".answer")).not_to_be_in_viewport()
    tab.click("#to-end")
    expect(opened.last.locator(".answer")).to_be_in_viewport()
    expect(tab.locator("#to-end")).to_be_hidden()


def webm(frames=8):
    """A video whose frames differ, as the bytes of a file."""
    file = io.BytesIO()
    with av.open(file, "w", format="webm") as container:
        stream = container.add_stream("libvpx", rate=4)
        stream.width = stream.height = 64
        stream.pix_fmt = "yuv420p"
        for index in range(frames):
            array = np.full((64, 64, 3), 255 * index // frames, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(array)))
        container.mux(stream.encode())
    return file.getvalue()


def avi():
    """A video that browsers do not play."""
    file = io.BytesIO()
    with av.open(file, "w", format="avi") as container:
        stream = container.add_stream("mpeg4", rate=4)
        stream.width = stream.height = 64
        stream.pix_fmt = "yuv420p"
        array = np.full((64, 64, 3), 90, np.uint8)
        for _ in range(4):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(array)))
        container.mux(stream.encode())
    return file.getvalue()


def test_videos(page, served):
    opened = page()
    opened.attach(("clip.webm", "video/webm", webm()), ("old.avi", "", avi()), *pictures(RED))
    expect(opened.tab.locator("#attached .badge").first).to_have_text("2 s")
    opened.ask("What happens?")
    prompt = asked(served).prompt
    assert (len(prompt.videos), len(prompt.images)) == (2, 1)
    light = [float(frame.mean()) for frame in np.asarray(prompt.videos[0], np.float32)]
    assert len(light) == 4 and light == sorted(light) and light[-1] > light[0]


def test_paste_drop_and_camera(page, served):
    opened = page()
    tab = opened.tab
    attached = tab.locator("#attached .thumbnail")
    for number, event in enumerate(("paste", "drop"), start=1):
        tab.evaluate(
            """async ([event, bytes]) => {
                const data = new DataTransfer();
                const file = [new Uint8Array(bytes)];
                data.items.add(new File(file, `${event}.png`, {type: "image/png"}));
                const options = {bubbles: true, cancelable: true};
                const target = document.getElementById("question");
                target.dispatchEvent(event === "paste"
                    ? new ClipboardEvent(event, {...options, clipboardData: data})
                    : new DragEvent(event, {...options, dataTransfer: data}));
            }""",
            [event, list(png())],
        )
        expect(attached).to_have_count(number)
    tab.click("#take")
    tab.click("[data-shutter]")
    expect(attached).to_have_count(3)
    opened.ask("What?")
    assert len(asked(served).prompt.images) == 3


def test_a_large_picture_is_made_smaller(page, served):
    opened = page()
    opened.attach(("large.png", "image/png", png(4000, 1000)))
    with opened.tab.expect_request("**/v1/chat/completions") as sent:
        opened.ask("What?")
    url = sent.value.post_data_json["messages"][0]["content"][0]["image_url"]["url"]
    header, data = url.split(",")
    assert header == "data:image/jpeg;base64"
    assert Image.open(io.BytesIO(base64.b64decode(data))).size == (1536, 384)


HOSTILE = (
    "<img src=x onerror=\"document.title='broken'\"> **<script>bad()</script>** "
    "[go](javascript:bad()) `</code><b>` \n\n```html\n<iframe src='//owls.example'></iframe>\n```\n"
    "- <svg onload=bad()>\n"
)


def test_nothing_is_taken_for_html(page):
    opened = page(
        answer=HOSTILE,
        faults=("Content Security Policy", "TrustedScript", "This document requires"),
    )
    tab = opened.tab
    opened.attach((HOSTILE[:48] + ".png", "image/png", png()))
    opened.type(HOSTILE)
    expect(tab.locator("#stop")).to_be_hidden()
    expect(tab.locator(".answer pre")).to_have_text("<iframe src='//owls.example'></iframe>")
    assert tab.locator(".bubble").text_content() == HOSTILE.strip()
    assert tab.locator("#exchanges :is(script, iframe, a, svg:not(.icon), b)").count() == 0
    assert tab.locator("#conversations :is(img, script)").count() == 0
    assert tab.title().startswith("<img src=x")
    refused = tab.evaluate(
        """() => [
            () => { document.body.innerHTML = "<b>x</b>"; },
            () => { const made = document.createElement("script"); made.text = "bad()"; },
        ].map((attempt) => { try { attempt(); return false; } catch { return true; } })"""
    )
    assert refused == [True] * 2
    left = tab.evaluate("fetch('http://127.0.0.1:9/').then(() => true, () => false)")
    assert left is False
    opened.requested = [url for url in opened.requested if url != "http://127.0.0.1:9/"]


@pytest.mark.parametrize(
    ("text", "html"),
    [
        ("a **b** *c* `d`", "<p>a <strong>b</strong> <em>c</em> <code>d</code></p>"),
        ("a\nb\n\nc", "<p>a<br>b</p><p>c</p>"),
        ("# a\n- b\n  - c\n- d", "<h3>a</h3><ul><li>b<ul><li>c</li></ul></li><li>d</li></ul>"),
        ("3. a\n4. b\n\nc", '<ol start="3"><li>a</li><li>b</li></ol><p>c</p>'),
        ("```py\na\n\n*b*\n```\nc", "<pre><code>a\n\n*b*</code></pre><p>c</p>"),
        ("```\nopen", "<pre><code>open</code></pre>"),
        ("2 * 3 * 4, a_b_c, **", "<p>2 * 3 * 4, a_b_c, **</p>"),
        ("<b>**x**&amp;", "<p>&lt;b&gt;<strong>x</strong>&amp;amp;</p>"),
        ("", ""),
    ],
)
def test_markdown(markdown, text, html):
    assert markdown(text) == html


@pytest.fixture(scope="module")
def markdown(browser, served):
    """Renders in a page, without the attributes that are the same for all code."""
    with_page = Page(browser, served)

    def render(text):
        html = with_page.tab.evaluate(
            """async (text) => {
                const { rendered } = await import("/static/markdown.js");
                return rendered(text).map((each) => each.outerHTML).join("");
            }""",
            text,
        )
        return re.sub(r"<pre [^>]*>", "<pre>", html)

    yield render
    with_page.close()


def test_long_and_strange_answers_take_no_time(markdown):
    for text in (
        "`" * 9000,
        "*" * 9000,
        "- " * 9000,
        "**a" * 3000,
        "\n".join(" " * i + "- a" for i in range(200)),
    ):
        assert markdown(text)


def test_a_key(page, owl):
    with Served(owl, keys=("a-key-for-tests",)) as served:
        opened = page(on=served, faults=("status of 401",))
        tab = opened.tab
        for key in ("a-wrong-key", "a-key-for-tests"):
            tab.fill("#key-value", key)
            tab.keyboard.press("Enter")
        expect(tab.locator("#model")).to_be_enabled()
        opened.ask("What?")
        assert tab.locator("[aria-label='Good answer']").count() == 0, "no votes without a file"
        assert "a-key" not in tab.evaluate("JSON.stringify(localStorage)")
        tab.reload()
        expect(tab.locator("#model")).to_be_enabled()
        opened.close()
        opened.context = opened.context.browser.new_context()


def test_settings(page, served):
    opened = page()
    tab = opened.tab
    opened.ask("What?")
    assert asked(served).sampling.temperature == 1 and asked(served).max_new_tokens > 500
    tab.click("#open-settings")
    for name, value in (("temperature", "0.5"), ("top_p", "0.9"), ("max_tokens", "32")):
        tab.fill(f"#set-{name}", value)
    tab.fill("#set-seed", "7")
    tab.click("#settings [data-close] >> text=Done")
    tab.reload()
    opened.ask("What?")
    request = asked(served)
    assert (request.sampling.temperature, request.max_new_tokens, request.seed) == (0.5, 32, 7)
    tab.click("#open-settings")
    tab.click("#reset")
    expect(tab.locator("#set-temperature")).to_have_value("1")


def test_everything_has_a_name_and_is_reached_by_keyboard(page):
    opened = page()
    tab = opened.tab
    opened.attach(*pictures(RED))
    opened.ask("What?")
    nameless = tab.evaluate(
        """() => [...document.querySelectorAll("button, input, select, textarea, dialog, section")]
            .filter((each) => !(each.ariaLabel || each.labels?.length || each.textContent.trim()
                || each.getAttribute("aria-labelledby")))
            .map((each) => each.outerHTML)"""
    )
    assert nameless == []
    reached = set()
    for _ in range(30):
        tab.keyboard.press("Tab")
        reached.add(tab.evaluate("document.activeElement.id || document.activeElement.ariaLabel"))
    assert {"question", "attach", "model", "compare", "open-settings", "new"} <= reached
    assert {"Edit the question", "Answer again", "Good answer"} <= reached


def test_a_narrow_dark_screen(page):
    opened = page(viewport={"width": 360, "height": 640}, color_scheme="dark")
    tab = opened.tab
    opened.attach(*pictures(RED, BLUE))
    tab.click("#compare")
    opened.ask("What? " * 30)
    widths = tab.evaluate(
        "[...document.querySelectorAll('body, #stage, .exchange')].map((each) => each.scrollWidth)"
    )
    assert max(widths) <= 360
    expect(tab.locator("#sidebar")).not_to_be_visible()
    tab.click("#open-sidebar")
    expect(tab.locator("#conversations li")).to_be_visible()
    tab.keyboard.press("Escape")
    expect(tab.locator("#sidebar")).not_to_be_visible()
    assert brightness(tab) < 60
    tab.click("#theme")
    assert brightness(tab) > 200
    tab.reload()
    assert brightness(tab) > 200, "the choice is kept"


def brightness(tab):
    colour = tab.evaluate("getComputedStyle(document.documentElement).backgroundColor")
    return min(int(number) for number in re.findall(r"\d+", colour)[:3])


def test_two_tabs_show_the_same(page):
    opened = page()
    opened.ask("First")
    other = opened.open()
    expect(other.locator(".exchange")).to_have_count(1)
    opened.ask("Second")
    expect(other.locator(".exchange")).to_have_count(2)
    expect(other.locator(".answer .text").last).to_have_text(ANSWER)
