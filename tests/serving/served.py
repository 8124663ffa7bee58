"""A server in this process, on a free port, with a real uvicorn."""

from __future__ import annotations

import base64
import io
import json
import socket
import threading
import time

import httpx
import numpy as np
import uvicorn
from engine_double import EngineDouble
from PIL import Image

from owl_jax.serving.app import make_app
from owl_jax.serving.model import Model
from owl_jax.serving.service import Service
from owl_jax.serving.settings import Settings

ASK = {"messages": [{"role": "user", "content": "What do you see?"}]}


class Served:
    """A server and a client of it.

    answer: the engine's answer to every request: a text, token ids, or an error.
    """

    def __init__(self, owl, answer="An owl.", settings=None, keys=(), engine=None, **double):
        self.owl = owl
        self.answer = answer
        self.engine = engine or EngineDouble(self._script, **double)
        self.service = Service(settings or Settings(), "tiny")
        self.log = io.StringIO()
        app = make_app(self.service, keys, self.log)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        config = uvicorn.Config(app, log_config=None, ws="none", timeout_graceful_shutdown=2)
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(
            target=self._server.run, kwargs={"sockets": [self._listener]}, daemon=True
        )
        self.client = httpx.Client(base_url=self.url, timeout=30, trust_env=False)
        if keys:
            self.client.headers["Authorization"] = f"Bearer {keys[0]}"

    def _script(self, request):
        answer = self.answer(request) if callable(self.answer) else self.answer
        if not isinstance(answer, str):
            return answer
        return [*self.owl.tokenizer.encode(answer), self.owl.tokenizer.eos_id]

    def load(self):
        """Makes the model ready."""
        model = Model("tiny", self.owl, self.engine)
        self.service.load(lambda: model, lambda: None, lambda: None)
        until(lambda: self.service.is_loaded)

    def __enter__(self):
        self._thread.start()
        until(lambda: self._server.started)
        self.load()
        return self

    def __exit__(self, *_):
        self._server.should_exit = True
        self._thread.join(20)
        assert not self._thread.is_alive()
        self.client.close()

    def ask(self, path="/v1/chat/completions", **fields):
        """The response to a question."""
        body = {**({} if "completions" in path and "chat" not in path else ASK), **fields}
        return self.client.post(path, json=body)

    def text(self, **fields):
        """The text of the answer to a question."""
        response = self.ask(**fields)
        assert response.status_code == 200, response.text
        return response.json()["choices"][0]["message"]["content"]

    def chunks(self, path="/v1/chat/completions", **fields):
        """The JSON of each event of a stream, which ends with [DONE]."""
        response = self.ask(path, stream=True, **fields)
        assert response.status_code == 200, response.text
        assert response.headers["content-type"].startswith("text/event-stream")
        events = [part for part in response.text.split("\n\n") if part.startswith("data: ")]
        assert events[-1] == "data: [DONE]"
        return [json.loads(event.removeprefix("data: ")) for event in events[:-1]]

    def lines(self):
        """The lines of the log."""
        return [json.loads(line) for line in self.log.getvalue().splitlines()]


def until(condition, seconds=20):
    """Waits until a condition holds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "still not so"
        time.sleep(0.01)


def png(width=8, height=8, colour=(200, 30, 30)):
    """A picture as the bytes of a file."""
    file = io.BytesIO()
    Image.new("RGB", (width, height), colour).save(file, "PNG")
    return file.getvalue()


def gif(frames=3):
    """A video as the bytes of a file."""
    file = io.BytesIO()
    images = [Image.fromarray(np.full((8, 8, 3), 40 * i, np.uint8)) for i in range(frames)]
    images[0].save(file, "GIF", save_all=True, append_images=images[1:])
    return file.getvalue()


def uri(data, kind="image/png"):
    """Bytes as a data URI."""
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def picture_part(data=None):
    """A content part that holds a picture."""
    return {"type": "image_url", "image_url": {"url": uri(png() if data is None else data)}}


def messages(*parts):
    """One message of the user; texts stand for text parts."""
    content = [{"type": "text", "text": part} if isinstance(part, str) else part for part in parts]
    return [{"role": "user", "content": content}]
