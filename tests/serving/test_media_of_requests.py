"""Pictures and videos in requests: what is read, and what is never read."""

import http.client
import http.server
import threading
import time
import zlib

import numpy as np
import pytest
from PIL import Image
from served import gif, messages, picture_part, png, uri

from owl_jax.media.headers import stated_size
from owl_jax.serving import download
from owl_jax.serving.download import Downloads
from owl_jax.serving.errors import ApiError
from owl_jax.serving.media import Media
from owl_jax.serving.settings import Limits, Settings

PUBLIC = "93.184.216.34"


@pytest.mark.parametrize(
    "url",
    [
        "/etc/hostname",
        "picture.png",
        "../picture.png",
        "~/picture.png",
        "file:///etc/hostname",
        "FILE:/etc/hostname",
        "fd:0",
        "http://example.org/a.png",
        "https://example.org/a.png",
        "ftp://example.org/a.png",
        "//example.org/a.png",
        "",
    ],
)
def test_paths_and_urls_are_never_read(plain, tmp_path, monkeypatch, url):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "picture.png").write_bytes(png())
    for part in (
        {"type": "image_url", "image_url": {"url": url}},
        {"type": "image_url", "image_url": url},
        {"type": "video_url", "video_url": {"url": url}},
        {"type": "video", "video": url},
        {"type": "video", "video": [url]},
    ):
        response = plain.ask(messages=messages(part, "What?"))
        assert response.status_code == 400
        assert response.json()["error"]["code"] == "url_not_allowed"


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("data:image/png;base64,!!!!", "base64"),
        ("data:image/png;base64,AAA", "base64"),
        ("data:image/png;base64,", "no data"),
        ("data:image/png,abc", "expected data:"),
        ("data:", "expected data:"),
        (uri(b"a text"), "not a picture"),
        (uri(png()[:50]), "damaged"),
        (uri(gif(), "video/jpeg"), "expected a picture"),
    ],
)
def test_damaged_pictures_end_their_request_only(plain, url, words):
    part = {"type": "image_url", "image_url": {"url": url}}
    response = plain.ask(messages=messages(part, "What?"))
    assert response.status_code == 400
    error = response.json()["error"]
    assert error["code"] == "invalid_media" or words == "expected a picture"
    assert words in error["message"]
    assert plain.text(messages=messages(picture_part(), "What?")) == "An owl."


def test_a_bomb_is_not_decoded(plain, monkeypatch):
    """A picture of 400 megapixels in a few hundred kilobytes."""
    file = png()
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    # The size of the first header only: a real bomb takes seconds to write.
    width = (20_000).to_bytes(4, "big")
    bomb = file[:16] + width + width + file[24:]
    start = time.monotonic()
    response = plain.ask(messages=messages(picture_part(bomb), "What?"))
    assert response.status_code == 400
    assert time.monotonic() - start < 1


def test_a_picture_without_usable_metadata_still_has_a_size():
    """Pillow refuses its text, which would take 64 MiB; the picture is decoded without it."""
    text = b"zTXta\0\0" + zlib.compress(bytes(64 << 20), 9)
    checksum = zlib.crc32(text).to_bytes(4, "big")
    file = png(5, 7)
    after_header = 8 + 25  # the signature and IHDR
    chunk = (len(text) - 4).to_bytes(4, "big") + text + checksum
    file = file[:after_header] + chunk + file[after_header:]
    assert stated_size(file) == (5, 7, 1)
    with pytest.raises(ApiError, match="5 x 7 pixels"):
        Media(Limits(pixels=34), Downloads()).picture(uri(file), "picture")


def test_sizes_come_from_headers(tmp_path):
    import av

    assert stated_size(png(5, 7)) == (5, 7, 1)
    assert stated_size(gif(3)) == (8, 8, 3)
    assert stated_size(b"a text") is None
    path = tmp_path / "clip.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height = 32, 16
        for _ in range(12):
            frame = av.VideoFrame.from_ndarray(np.zeros((16, 32, 3), np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    assert stated_size(path.read_bytes()) == (32, 16, 12)
    media = Media(Limits(video_frames=11), Downloads())
    with pytest.raises(ApiError, match="too many frames"):
        media.clip(uri(path.read_bytes(), "video/mp4"), "video")
    media = Media(Limits(pixels=511), Downloads())
    with pytest.raises(ApiError, match="32 x 16 pixels"):
        media.clip(uri(path.read_bytes(), "video/mp4"), "video")
    assert Media(Limits(), Downloads()).clip(uri(path.read_bytes()), "video")


class Host(http.server.BaseHTTPRequestHandler):
    """What a host on the internet might answer."""

    def do_GET(self):
        self.server.asked.append((self.path, self.headers["Host"]))
        if self.path == "/moved":
            self.send_response(302)
            self.send_header("Location", "/a.png")
            self.end_headers()
            return
        body = {"/large": b"a" * 5000, "/empty": b""}.get(self.path, png())
        self.send_response(404 if self.path == "/missing" else 200)
        if self.path != "/endless":
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        try:
            self.wfile.write(body)
            while self.path in ("/slow", "/endless"):
                self.wfile.write(b"a")
                time.sleep(0.01)
        except OSError:
            pass

    def log_message(self, *arguments):
        pass


@pytest.fixture
def host():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Host)
    server.asked = []
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def downloads(host):
    """Downloads from owls.example, which this machine plays without TLS."""

    def connect(name, address, timeout):
        assert address == PUBLIC
        connection = http.client.HTTPConnection(*host.server_address, timeout=timeout)
        connection.putheader_host = name
        return connection

    return Downloads(("owls.example",), 2000, 0.5, lambda name: [PUBLIC], connect)


def test_an_allowed_host(host, downloads, serve):
    assert downloads.fetch("https://owls.example/a.png?b=c#d", "url") == png()
    assert downloads.fetch("HTTPS://OWLS.example:443", "url") == png()
    assert [path for path, _ in host.asked] == ["/a.png?b=c", "/"]
    served = serve()
    served.service.downloads = downloads
    part = {"type": "image_url", "image_url": {"url": "https://owls.example/a.png"}}
    assert served.text(messages=messages(part, "What?")) == "An owl."


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("https://other.example/a.png", "not fetched"),
        ("https://owls.example.other.example/a.png", "not fetched"),
        ("http://owls.example/a.png", "not fetched"),
        ("https://owls.example:8443/a.png", "port"),
        ("https://ann:secret@owls.example/a.png", "user"),
        ("https://owls.example@other.example/a.png", "not fetched"),
        ("https://owls.example\\@other.example/a.png", "not fetched"),
        ("https://owls.example/a b.png", "escape"),
        ("https://owls.example:x/a.png", "not a URL"),
        ("https://[::1/a.png", "not a URL"),
    ],
)
def test_urls_that_are_not_allowed(downloads, host, url, words):
    with pytest.raises(ApiError, match=words) as caught:
        downloads.fetch(url, "url")
    assert (caught.value.status, caught.value.code) == (400, "url_not_allowed")
    assert not host.asked


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("moved", "status 302; redirects are not followed"),
        ("missing", "status 404"),
        ("large", "more than 2,000 bytes"),
        ("empty", "an empty file"),
        ("slow", "."),
        ("endless", "more than 0.5 seconds"),
    ],
)
def test_downloads_that_fail(downloads, host, path, words):
    start = time.monotonic()
    if path == "slow":  # all the bytes that were announced, and more: those are not read
        assert downloads.fetch(f"https://owls.example/{path}", "url") == png()
        return
    with pytest.raises(ApiError, match=words) as caught:
        downloads.fetch(f"https://owls.example/{path}", "url")
    assert (caught.value.status, caught.value.code) == (400, "download_failed")
    assert len(host.asked) == 1
    assert time.monotonic() - start < 3


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "10.0.0.1",
        "172.16.0.1",
        "192.168.1.1",
        "169.254.169.254",
        "100.64.0.1",
        "0.0.0.0",
        "224.0.0.1",
        "::1",
        "fe80::1%eth0",
        "fd00::1",
        "::ffff:127.0.0.1",
        "2002:7f00:1::",
    ],
)
def test_private_addresses(address, downloads, host):
    import dataclasses

    assert not download.is_public(address)
    inside = dataclasses.replace(downloads, resolve=lambda name: [PUBLIC, address])
    with pytest.raises(ApiError, match="private address"):
        inside.fetch("https://owls.example/a.png", "url")
    assert not host.asked


def test_public_addresses():
    assert download.is_public(PUBLIC) and download.is_public("2606:2800:220:1::1")


def test_a_name_that_does_not_resolve(downloads):
    import dataclasses

    def fails(name):
        raise OSError("no such name")

    lost = dataclasses.replace(downloads, resolve=fails)
    with pytest.raises(ApiError, match="no such name"):
        lost.fetch("https://owls.example/a.png", "url")
    none = Settings().media_hosts
    with pytest.raises(ApiError, match=r"not fetched; expected a data URI$"):
        Downloads(none).fetch("https://owls.example/a.png", "url")


def test_a_real_connection_checks_certificates():
    connection = download.PinnedConnection("owls.example", "127.0.0.1", 1.0)
    listener = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Host)
    threading.Thread(target=listener.serve_forever, daemon=True).start()
    connection.port = listener.server_address[1]
    with pytest.raises(OSError, match=r"SSL|EOF|WRONG"):
        connection.connect()
    listener.shutdown()
    listener.server_close()
    assert connection._tls.check_hostname
