"""A judge on 127.0.0.1 that replies from a script, and fails as real ones do."""

from __future__ import annotations

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class JudgeDouble:
    """script(prompt, n) -> the n-th response to a prompt, from 0 on: a text, (status, body),
    (status, body, headers), or seconds to wait before hanging up."""

    def __init__(self, script, models_status=200):
        self.script = script
        self.asked = []  # bodies
        self.keys = []
        self.most_at_once = 0
        self._now = 0
        self._lock = threading.Lock()
        double = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                double.keys.append(self.headers.get("Authorization"))
                self.answer(models_status, {"data": [{"id": "judge"}]}, {})

            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                self.answer(*double.respond(body))

            def answer(self, status, body, headers):
                data = body if isinstance(body, bytes) else json.dumps(body).encode()
                self.send_response(status)
                for name, value in {**headers, "Content-Length": len(data)}.items():
                    self.send_header(name, str(value))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/v1"
        self._thread = threading.Thread(target=self._server.serve_forever, args=[0.01], daemon=True)

    def respond(self, body):
        prompt = body["messages"][-1]["content"]
        with self._lock:
            count = sum(one["messages"][-1]["content"] == prompt for one in self.asked)
            self.asked.append(body)
            self._now += 1
            self.most_at_once = max(self.most_at_once, self._now)
        try:
            found = self.script(prompt, count)
            if isinstance(found, float):
                time.sleep(found)
                return 200, completion("too late"), {}
            if isinstance(found, str):
                return 200, completion(found), {}
            status, content, *headers = found
            return status, content, headers[0] if headers else {}
        finally:
            with self._lock:
                self._now -= 1

    def prompts(self):
        return [body["messages"][-1]["content"] for body in self.asked]

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(10)


def completion(text):
    return {"choices": [{"message": {"role": "assistant", "content": text}}]}
