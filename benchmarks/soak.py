"""A server under 64 clients of every kind: good ones, slow ones, those that leave, and bad ones.

    python benchmarks/soak.py [--model=runs/demo/stage2/model] [--requests=2000] [--clients=64]
        [--seconds=600]

Starts `python -m owl_jax.serve` and asks a few dozen questions one after the other: those answers
are the answers alone. Then the clients send so many requests, evenly over the time. Fails if an
answer differs from the answer alone, a bad request gets another status than it should, the server
ends, compiles, logs a fault, or keeps work, or if its resident memory grows by 2 % or more after
the first minute. Linux only. `make demo` makes the model.
"""

from __future__ import annotations

import asyncio
import base64
import io
import json
import re
import secrets
import signal
import statistics
import struct
import subprocess
import sys
import tempfile
import time
import zlib
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from absl import flags
from PIL import Image

from owl_jax import cli
from owl_jax.errors import UserError

_MODEL = flags.DEFINE_string("model", "runs/demo/stage2/model", "the model's directory")
_REQUESTS = flags.DEFINE_integer("requests", 2000, "in all", lower_bound=1)
_CLIENTS = flags.DEFINE_integer("clients", 64, "at once", lower_bound=1)
_SECONDS = flags.DEFINE_float("seconds", 600.0, "over which requests begin", lower_bound=1.0)
_SERVE = flags.DEFINE_multi_string("serve", [], "a flag of owl_jax.serve; repeatable")

_GROWTH = 0.02
_BODY_SECONDS = 10.0
_CHAT, _COMPLETIONS = "/v1/chat/completions", "/v1/completions"
_MIB = 1 << 20
_SHARE_OF_BAD = 0.35

Json = dict[str, Any]


@dataclass
class Server:
    """A server of our own. faults: what went wrong, as text."""

    url: str
    key: str
    process: subprocess.Popen[str]
    log: Path
    faults: list[str] = field(default_factory=list)
    resident: list[tuple[float, int]] = field(default_factory=list)

    @property
    def headers(self) -> dict[str, str]:
        """Of a request that is let in."""
        return {"Authorization": f"Bearer {self.key}", "Content-Type": "application/json"}

    def resident_bytes(self) -> int:
        """Of the server's process."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        found = re.search(r"VmRSS:\s+(\d+) kB", status)
        assert found is not None, status
        return int(found[1]) * 1024


def main(argv: list[str]) -> None:
    """Prints what happened; the status is 1 if anything was wrong."""
    del argv
    if not Path(_MODEL.value).is_dir():
        raise UserError(f"--model={_MODEL.value} does not exist; make it with: make demo")
    with tempfile.TemporaryDirectory(prefix="owl_jax-soak-") as folder:
        server = _start(Path(folder))
        try:
            asyncio.run(_soak(server))
            server.process.send_signal(signal.SIGTERM)
            status = server.process.wait(120)
            if status != 0:
                server.faults.append(f"the server ended with status {status} after SIGTERM")
        finally:
            server.process.kill()
        _read_log(server)
    for fault in server.faults[:20]:
        print(f"WRONG: {fault}")
    print("soak failed" if server.faults else "soak passed")
    if server.faults:
        sys.exit(1)


def _start(folder: Path) -> Server:
    """Returns when the server is ready."""
    key, log = secrets.token_hex(16), folder / "log"
    (folder / "keys").write_text(key)
    command = [sys.executable, "-m", "owl_jax.serve", f"--model={_MODEL.value}", "--name=owl"]
    command += ["--port=0", f"--api_key_file={folder / 'keys'}", f"--body_seconds={_BODY_SECONDS}"]
    with log.open("w") as file:
        process = subprocess.Popen(
            [*command, *_SERVE.value], stdout=subprocess.PIPE, stderr=file, text=True
        )
    assert process.stdout is not None
    lines = [process.stdout.readline() for _ in range(2)]
    found = re.match(r"listening on (\S+);", lines[0])
    if not found or "ready" not in lines[1]:
        process.kill()
        raise UserError(f"the server does not start: {lines}\n{log.read_text()}")
    print(lines[1].strip(), flush=True)
    return Server(found[1], key, process, log)


def _read_log(server: Server) -> None:
    """Every line of the log is a response, and none is a fault of ours."""
    for line in server.log.read_text().splitlines():
        if not line.startswith("{") or json.loads(line)["status"] >= 500:
            server.faults.append(f"log: {line[:300]}")


async def _soak(server: Server) -> None:
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(
        base_url=server.url, timeout=300, trust_env=False, limits=limits
    ) as client:
        questions = _questions()
        expected = [await _answer(client, server, path, body) for path, body in questions]
        print(f"{len(questions)} questions, {len(set(map(str, expected)))} answers", flush=True)
        good = list(zip(questions, expected, strict=True))
        counts = await _clients(server, client, good)
        metrics = (await client.get("/metrics")).text
        healthy = (await client.get("/health")).status_code
    for name in ("compilations_total", "num_requests_running", "num_requests_waiting"):
        found = re.search(rf"^owl:{name}{{.*}} (\S+)$", metrics, re.MULTILINE)
        if not found or float(found[1]):
            server.faults.append(f"{name} is {found and found[1]} at the end; expected 0")
    if healthy != 200:
        server.faults.append(f"/health is {healthy} at the end")
    _judge_memory(server)
    print(", ".join(f"{count} {kind}" for kind, count in sorted(counts.items())))


async def _clients(
    server: Server, client: httpx.AsyncClient, good: list[tuple[tuple[str, Json], Any]]
) -> Counter[str]:
    """Runs all clients. Returns how many requests of each kind were sent."""
    number, clients, seconds = _REQUESTS.value, _CLIENTS.value, _SECONDS.value
    random = np.random.default_rng(0)
    bad = _bad_kinds(server, client)
    counts: Counter[str] = Counter()
    start = time.monotonic()

    async def ask(index: int) -> None:
        if random.random() < _SHARE_OF_BAD:
            kind = list(bad)[random.integers(len(bad))]
            work = bad[kind]()
        else:
            (path, body), expected = good[random.integers(len(good))]
            kind, work = _good_kind(server, client, path, body, expected, random)
        counts[kind] += 1
        try:
            await work
        except Exception as error:
            server.faults.append(f"request {index}, {kind}: {type(error).__name__}: {error}")

    async def one_client(which: int) -> None:
        for index in range(which, number, clients):
            await asyncio.sleep(max(0.0, start + index * seconds / number - time.monotonic()))
            await ask(index)

    async def watch() -> None:
        while True:
            if server.process.poll() is not None:
                raise UserError(f"the server has ended with {server.process.returncode}")
            server.resident.append((time.monotonic() - start, server.resident_bytes()))
            await asyncio.sleep(1)

    watching = asyncio.create_task(watch())
    working = asyncio.gather(*(one_client(which) for which in range(clients)))
    await asyncio.wait({watching, asyncio.ensure_future(working)}, return_when="FIRST_COMPLETED")
    if watching.done():
        watching.result()
    watching.cancel()
    print(f"{number} requests of {clients} clients in {time.monotonic() - start:.0f} s")
    return counts


def _judge_memory(server: Server) -> None:
    """The median of the second minute against the median of the last."""
    end = server.resident[-1][0]
    if end < 180:
        print("resident memory: the run is too short to judge")
        return
    by_minute = [
        statistics.median(size for at, size in server.resident if 60 * i <= at < 60 * (i + 1))
        for i in range(int(end // 60))
    ]
    growth = by_minute[-1] / by_minute[1] - 1
    medians = ", ".join(f"{size / _MIB:.0f}" for size in by_minute)
    most = max(size for _, size in server.resident) / _MIB
    print(
        f"resident memory, medians of minutes: {medians} MiB ({growth:+.1%} since the second); at "
        f"most {most:.0f} MiB"
    )
    if growth >= _GROWTH:
        server.faults.append(f"resident memory grew by {growth:.1%}")


# Good requests.


def _questions() -> list[tuple[str, Json]]:
    """(path, body) of each question; greedy or with a seed, so that it has one answer."""
    pictures = [_picture(seed) for seed in range(8)]
    found: list[tuple[str, Json]] = []

    def chat(*parts: Any, **fields: Any) -> None:
        content = [{"type": "text", "text": p} if isinstance(p, str) else p for p in parts]
        body = {"model": "owl", "messages": [{"role": "user", "content": content}]}
        found.append((_CHAT, {"temperature": 0, "max_tokens": 24, **body, **fields}))

    for text in ("What is an owl?", "How many legs does a bird have?", "Say hello. " * 20):
        chat(text)
        chat(text, temperature=0.8, top_p=0.9, seed=7)
    for picture in pictures:
        chat(picture, "What color is the shape?")
        chat(picture, "How many shapes are there?", temperature=1, top_k=5, seed=3)
    for first, second in pairwise(pictures):
        chat(first, second, "What is the difference?")
    for start in range(3):
        frames = [part["image_url"]["url"] for part in pictures[start : start + 4]]
        chat({"type": "video", "video": frames}, "What happens?")
    large = {"type": "image_url", "image_url": {"url": _png(7000, 7000)}}
    chat(large, "What color is it?")
    chat(pictures[0], "What?", n=2, seed=1, temperature=1)
    chat("A number.", response_format={"type": "json_object"}, max_tokens=40)
    chat("What?", ignore_eos=True, max_tokens=100)
    for prompt in ("An owl is", "The picture shows"):
        found.append((_COMPLETIONS, {"prompt": prompt, "max_tokens": 16, "temperature": 0}))
    return found


def _picture(seed: int) -> Json:
    """A part with a picture."""
    random = np.random.default_rng(seed)
    pixels = np.full((96, 128, 3), random.integers(0, 256, 3), np.uint8)
    top, left = random.integers(0, 60, 2)
    pixels[top : top + 36, left : left + 50] = random.integers(0, 256, 3)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return _image_part(file.getvalue())


def _image_part(data: bytes) -> Json:
    url = f"data:image/png;base64,{base64.b64encode(data).decode()}"
    return {"type": "image_url", "image_url": {"url": url}}


def _good_kind(
    server: Server,
    client: httpx.AsyncClient,
    path: str,
    body: Json,
    expected: Any,
    random: np.random.Generator,
) -> tuple[str, Awaitable[None]]:
    """A way to ask, and what asks and compares."""
    kind = ("whole", "streamed", "read slowly", "left early")[random.integers(4)]
    if kind == "left early":
        return kind, _leave(server, client, path, body)

    async def ask() -> None:
        if kind == "whole":
            found = await _answer(client, server, path, body)
        else:
            found = await _streamed(client, server, path, body, 0.2 if kind != "streamed" else 0)
        if found != expected:
            raise AssertionError(f"{found} instead of {expected}")

    return kind, ask()


async def _answer(client: httpx.AsyncClient, server: Server, path: str, body: Json) -> Any:
    """[(text, reason)] of each choice."""
    response = await client.post(path, json=body, headers=server.headers)
    if response.status_code != 200:
        raise AssertionError(f"status {response.status_code}: {response.text[:200]}")
    return [
        (choice["message"]["content"] if path == _CHAT else choice["text"], choice["finish_reason"])
        for choice in response.json()["choices"]
    ]


async def _streamed(
    client: httpx.AsyncClient, server: Server, path: str, body: Json, pause: float
) -> Any:
    """The same from a stream. pause: seconds between two reads."""
    texts: dict[int, str] = {}
    reasons: dict[int, str] = {}
    ask = {**body, "stream": True}
    async with client.stream("POST", path, json=ask, headers=server.headers) as response:
        async for line in response.aiter_lines():
            await asyncio.sleep(pause)
            if not line.startswith("data: {"):
                continue
            for choice in json.loads(line[6:])["choices"]:
                index = choice["index"]
                delta = choice["delta"].get("content", "") if path == _CHAT else choice["text"]
                texts[index] = texts.get(index, "") + (delta or "")
                if choice["finish_reason"]:
                    reasons[index] = choice["finish_reason"]
    return [(texts[index], reasons.get(index)) for index in sorted(texts)]


async def _leave(server: Server, client: httpx.AsyncClient, path: str, body: Json) -> None:
    """Goes away after the first bytes of a long answer."""
    ask = {**body, "stream": True, "max_tokens": 100}
    async with client.stream("POST", path, json=ask, headers=server.headers) as response:
        async for _ in response.aiter_bytes():
            break


# Bad requests.


def _bad_kinds(server: Server, client: httpx.AsyncClient) -> dict[str, Callable[[], Any]]:
    """Each kind, and what sends one request of it and checks the status."""
    text = json.dumps(_about("a b c d " * (20 * _MIB // 8))).encode()
    too_large = b'{"messages": "' + b"a" * (33 * _MIB) + b'"}'
    rows = np.full((64, 64, 3), 9, np.uint8)
    file = io.BytesIO()
    Image.fromarray(rows).save(file, "PNG")
    truncated = file.getvalue()[:60]

    def refused(status: int, body: Json | bytes, **headers: str) -> Callable[[], Any]:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()

        async def send() -> None:
            given = {**server.headers, **headers}
            response = await client.post(_CHAT, content=data, headers=given)
            if response.status_code != status or "error" not in response.json():
                raise AssertionError(f"status {response.status_code} instead of {status}")

        return send

    return {
        "bad base64": refused(400, _about("What?", "data:image/png;base64,!!!")),
        "bombs": refused(400, _about("What?", _png(30_000, 30_000))),
        "hidden bombs": refused(400, _about("What?", _png(8000, 8000, hidden=64 * _MIB))),
        "truncated pictures": refused(400, _about("What?", _uri(truncated))),
        "20 MB of text": refused(400, text),
        "bodies too large": refused(413, too_large),
        "wrong models": refused(404, {**_about("What?"), "model": "gpt-9"}),
        "wrong keys": refused(401, _about("What?"), Authorization="Bearer nobody"),
        "no JSON": refused(400, b"{"),
        "wrong fields": refused(400, {**_about("What?"), "temperature": "hot"}),
        "files as URLs": refused(400, _about("What?", "file:///etc/passwd")),
        "wrong types": refused(415, b"{}", **{"Content-Type": "text/plain"}),
        "half a body, then gone": lambda: _half(server, wait=False),
        "half a body, then silent": lambda: _half(server, wait=True),
    }


def _about(text: str, url: str | None = None) -> Json:
    parts: list[Json] = [{"type": "text", "text": text}]
    if url is not None:
        parts.append({"type": "image_url", "image_url": {"url": url}})
    return {"messages": [{"role": "user", "content": parts}], "max_tokens": 8}


def _uri(data: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(data).decode()}"


def _png(width: int, height: int, hidden: int = 0) -> str:
    """A small PNG of so many pixels. hidden: bytes of a text that it has in compressed form."""

    def chunk(name: bytes, data: bytes) -> bytes:
        checksum = struct.pack(">I", zlib.crc32(name + data))
        return struct.pack(">I", len(data)) + name + data + checksum

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    packer, row = zlib.compressobj(9), bytes(1 + width)
    rows = b"".join(packer.compress(row) for _ in range(min(height, 7000))) + packer.flush()
    text = b"a\0\0" + zlib.compress(bytes(hidden), 9)
    parts = (b"IHDR", header), (b"zTXt", text), (b"IDAT", rows), (b"IEND", b"")
    return _uri(b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts))


async def _half(server: Server, wait: bool) -> None:
    """Sends a part of a body. wait: for the status 408."""
    host, port = server.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    lines = "".join(f"{name}: {value}\r\n" for name, value in server.headers.items())
    writer.write(
        f"POST {_CHAT} HTTP/1.1\r\nHost: a\r\n{lines}Content-Length: 1000\r\n\r\n{{".encode()
    )
    await writer.drain()
    if wait:
        status = await reader.readline()
        assert b" 408 " in status, status
    else:
        await asyncio.sleep(0.05)
    writer.close()


if __name__ == "__main__":
    cli.run(main)
