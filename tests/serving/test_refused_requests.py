"""Requests that are refused: the status, and OpenAI's form."""

import json
import socket
import threading
import time
from contextlib import suppress

import pytest
from served import ASK, Served, messages, picture_part, png, until, uri

from owl_jax.errors import UserError
from owl_jax.serving.settings import Limits, Settings

CHAT = "/v1/chat/completions"


def error(response, status):
    """The error of a response, whose form is checked."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    body = response.json()
    assert set(body) == {"error"}
    assert set(body["error"]) == {"message", "type", "param", "code"}
    return body["error"]


@pytest.mark.parametrize(
    ("fields", "param", "words"),
    [
        ({"temperature": -1}, "temperature", ">= 0"),
        ({"temperature": "hot"}, "temperature", "Expected"),
        ({"temperature": 1e999}, None, "JSON"),
        ({"top_p": 1.5}, "top_p", "<= 1"),
        ({"top_k": -2}, "top_k", ">= -1"),
        ({"presence_penalty": 2.5}, "presence_penalty", "<= 2"),
        ({"repetition_penalty": 0}, "repetition_penalty", "> 0"),
        ({"repetition_penalty": 1e31}, "repetition_penalty", "finite"),
        ({"max_tokens": 0}, "max_tokens", ">= 1"),
        ({"n": 0}, "n", ">= 1"),
        ({"n": 9}, "n", "at most 8"),
        ({"stop": ["a"] * 5}, "stop", "<= 4"),
        ({"stop": ""}, "stop", ">= 1"),
        ({"stop": [""]}, "stop[0]", ">= 1"),
        ({"top_logprobs": 2}, "top_logprobs", "logprobs: true"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs", "<= 20"),
        ({"tools": [{"type": "function"}]}, "tools", "not supported"),
        ({"logit_bias": {"5": 1}}, "logit_bias", "not supported"),
        ({"best": 1}, "best", "unknown field"),
        ({"seed": 1.5}, "seed", "int"),
        ({"messages": []}, "messages", "length >= 1"),
        ({"messages": "Hi"}, "messages", "array"),
        ({"messages": [{"role": "tool", "content": "a"}]}, "messages[0].role", "tool"),
        ({"messages": [{"role": "user"}]}, "messages", "empty"),
        ({"messages": [{"role": "assistant", "content": "a"}]}, "messages", "question"),
        ({"messages": [{"role": "user", "content": [{"type": "audio"}]}]}, None, "audio"),
        (
            {"messages": [{"role": "user", "content": [{"type": "text", "text": "a", "b": 1}]}]},
            "messages[0].content[0].b",
            "unknown field `b`",
        ),
        (
            {"messages": [*ASK["messages"], {"role": "system", "content": "a"}]},
            "messages",
            "only the first",
        ),
        (
            {"messages": [{"role": "assistant", "content": [picture_part()]}, *ASK["messages"]]},
            "messages",
            "only the user's",
        ),
    ],
)
def test_wrong_fields(plain, fields, param, words):
    found = error(
        plain.client.post(
            CHAT,
            content=json.dumps({**ASK, **fields}),
            headers={"Content-Type": "application/json"},
        ),
        400,
    )
    assert words in found["message"], found
    assert found["type"] == "invalid_request_error"
    if param is not None:
        assert found["param"] == param


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"", 400, "invalid_json"),
        (b"{", 400, "invalid_json"),
        (b"\xff", 400, "invalid_json"),
        (b'{"metadata": {"a":' + b"[" * 100_000, 400, "invalid_json"),
        (b'{"messages": [{"role": "user", "content": "\xff"}]}', 400, "invalid_json"),
    ],
)
def test_bodies_that_are_not_json(plain, body, status, code):
    response = plain.client.post(CHAT, content=body, headers={"Content-Type": "application/json"})
    assert error(response, status)["code"] == code


def test_another_content_type(plain):
    """A page of any origin may send text and forms, without asking."""
    for kind in ("text/plain", "application/x-www-form-urlencoded"):
        response = plain.client.post(CHAT, content=b"{}", headers={"Content-Type": kind})
        assert "application/json" in error(response, 415)["message"]


def test_an_unknown_model(plain):
    found = error(plain.ask(model="gpt-5"), 404)
    assert found["code"] == "model_not_found" and found["param"] == "model"
    assert "tiny" in found["message"]


def test_unknown_paths_and_methods(plain):
    assert "/v1/nothing" in error(plain.client.get("/v1/nothing"), 404)["message"]
    assert "GET" in error(plain.client.get(CHAT), 405)["message"]


def test_a_prompt_that_is_too_long(serve):
    served = serve()
    for count in (200, 1_000_000, 30_000_000 // 4):
        found = error(served.ask(messages=messages("owl " * count)), 400)
        assert found["code"] == "context_length_exceeded" and found["param"] == "messages"
        assert "192" in found["message"]
        assert any(letter.isdigit() for letter in found["message"].replace("192", ""))
    found = error(served.ask("/v1/completions", prompt="owl " * 200), 400)
    assert found["code"] == "context_length_exceeded" and found["param"] == "prompt"
    assert error(served.ask("/v1/completions", prompt=[5] * 192), 400)["param"] == "prompt"


def test_a_full_queue(serve):
    served = serve("See an owl. " * 9, chunk=1, seconds=0.05, max_waiting=2)
    threads = [threading.Thread(target=served.ask) for _ in range(2)]
    for thread in threads:
        thread.start()
    until(lambda: len(served.engine.requests) == 2)
    response = served.ask()
    assert error(response, 503)["code"] == "queue_full"
    assert response.headers["retry-after"] == "5"
    for thread in threads:
        thread.join()
    assert served.ask(max_tokens=1).status_code == 200
    # All answers to a request are queued, or none.
    assert error(served.ask(n=3), 503)["code"] == "queue_full"
    until(lambda: served.engine.ended.count("cancelled") == 2)


def test_requests_that_are_being_prepared_are_bounded(serve):
    served = serve(settings=Settings(Limits(waiting=1), threads=1))
    release = threading.Event()
    served.owl.tokenize, real = (
        (lambda *a, **k: (release.wait(10), real(*a, **k))[1]),
        (served.owl.tokenize),
    )
    try:
        first = threading.Thread(target=served.ask)
        first.start()
        until(lambda: served.service._preparing)
        assert error(served.ask(), 503)["code"] == "queue_full"
        assert served.client.get("/health").status_code == 200  # the loop is free
        release.set()
        first.join()
        assert served.ask().status_code == 200
    finally:
        del served.owl.tokenize


def test_a_large_body(serve):
    served = serve(settings=Settings(Limits(body_bytes=1000)))
    large = {**ASK, "user": "a" * 2000}
    assert error(served.client.post(CHAT, json=large), 413)["code"] == "body_too_large"

    def chunks():  # no Content-Length
        yield json.dumps(large).encode()

    kind = {"Content-Type": "application/json"}
    response = served.client.post(CHAT, content=chunks(), headers=kind)
    assert error(response, 413)["code"] == "body_too_large"
    assert served.service.bodies.held == 0
    assert served.ask().status_code == 200


@pytest.mark.parametrize("times", [3, 200])
def test_who_sends_a_large_body_before_reading_gets_the_answer(serve, times):
    """Unless it is far too large."""
    served = serve(settings=Settings(Limits(body_bytes=100_000)))
    host, port = served.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as connection:
        size = times * 100_000
        connection.sendall(
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
            b"Content-Length: %d\r\n\r\n" % size
        )
        sent = 0
        with suppress(ConnectionError):
            while sent < size:
                connection.sendall(b"a" * 10_000)
                sent += 10_000
                time.sleep(0.001)
        if times == 3:
            assert connection.recv(100).startswith(b"HTTP/1.1 413")
    assert (sent == size) == (times == 3)
    assert served.service.bodies.held == 0


def test_all_bodies_together(serve):
    served = serve(settings=Settings(Limits(bodies_bytes=1000)))
    response = served.client.post(CHAT, json={**ASK, "user": "a" * 2000})
    assert error(response, 503)["code"] == "bodies_full"
    assert "retry-after" in response.headers
    assert served.service.bodies.held == 0
    assert served.ask().status_code == 200


def test_a_body_that_does_not_come(serve):
    served = serve(settings=Settings(Limits(body_seconds=0.2)))
    host, port = served.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
            b"Content-Length: 1000\r\n\r\n{"
        )
        connection.settimeout(10)
        answer = b""
        while piece := connection.recv(1000):
            answer += piece
    assert answer.startswith(b"HTTP/1.1 408")
    assert b'"message":"the body was not complete after 0.2 seconds"' in answer
    assert served.service.bodies.held == 0


def test_a_client_that_leaves_within_its_body(serve):
    served = serve()
    host, port = served.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
            b"Content-Length: 1000\r\n\r\n{"
        )
        until(lambda: served.service.bodies.held)
    until(lambda: served.log.getvalue())
    (line,) = served.lines()
    assert (line["status"], line["ended"]) == (499, "client gone")
    assert served.service.bodies.held == 0


@pytest.mark.parametrize(
    ("limits", "parts", "code"),
    [
        ({"images": 1}, [picture_part(), picture_part()], "too_many"),
        ({"videos": 0}, [{"type": "video", "video": [uri(png())]}], "too_many"),
        ({"frames": 1}, [{"type": "video", "video": [uri(png())] * 2}], "too_many"),
        ({"pixels": 63}, [picture_part()], "image_too_large"),
        ({"pixels": 63}, [{"type": "video", "video": [uri(png())]}], "image_too_large"),
        ({}, [{"type": "video", "video": []}], "invalid_media"),
    ],
)
def test_limits_of_media(serve, limits, parts, code):
    served = serve(settings=Settings(Limits(**limits)))
    found = error(served.ask(messages=messages(*parts, "What?")), 400)
    assert found["code"] == code
    assert found["param"].startswith("messages[0].content[")
    assert served.text() == "An owl."


def test_new_tokens_are_limited(serve):
    served = serve(settings=Settings(Limits(new_tokens=2)))
    body = served.ask(max_tokens=50).json()
    assert body["usage"]["completion_tokens"] == 2
    assert body["choices"][0]["finish_reason"] == "length"


def test_what_the_engine_finds_wrong(serve):
    served = serve(UserError("the grammar cannot be followed"))
    assert error(served.ask(), 400)["message"] == "the grammar cannot be followed"


def test_a_fault_of_ours(serve, caplog):
    served = serve(ValueError("a secret"))
    response = served.ask()
    found = error(response, 500)
    assert found["type"] == "server_error" and "secret" not in found["message"]
    assert response.headers["x-request-id"] in found["message"]
    assert "a secret" in caplog.text  # in the log

    served.answer = "An owl."
    assert served.ask().status_code == 200


def test_a_fault_while_a_request_is_prepared(serve, monkeypatch, caplog):
    served = serve()

    def fails(*arguments, **fields):
        raise ZeroDivisionError("a secret")

    monkeypatch.setattr(served.owl, "tokenize", fails)
    found = error(served.ask(), 500)
    assert "secret" not in found["message"]
    until(lambda: "a secret" in caplog.text)


def test_while_the_model_loads(owl):
    class Slow(Served):
        def load(self):
            pass

    with Slow(owl) as served:
        for path in ("/health", "/v1/models"):
            response = served.client.get(path)
            assert error(response, 503)["code"] == "loading"
            assert response.headers["retry-after"] == "5"
        assert error(served.ask(), 503)["code"] == "loading"
        assert served.client.get("/metrics").status_code == 200
        Served.load(served)
        assert served.client.get("/health").json() == {"status": "ok"}
        assert served.text() == "An owl."
        served.service.is_draining = True
        assert error(served.client.get("/health"), 503)["code"] == "shutting_down"
        assert error(served.ask(), 503)["code"] == "shutting_down"


def test_an_engine_that_cannot_answer_is_not_healthy(serve, monkeypatch):
    served = serve(settings=Settings(stall_seconds=7))
    monkeypatch.setattr(
        served.engine, "problem", lambda seconds: f"the device has not answered for {seconds} s"
    )
    response = served.client.get("/health")
    found = error(response, 503)
    assert (found["code"], found["message"][-3:]) == ("engine_failed", "7 s")
    assert served.text() == "An owl."  # it may recover
    monkeypatch.undo()
    assert served.client.get("/health").status_code == 200


def test_answers_that_take_too_long_are_ended(owl):
    """Served gives running answers two seconds."""
    with Served(owl, "See an owl. " * 99, chunk=1, seconds=0.05, row_length=2000) as served:
        thread = threading.Thread(target=served.ask, daemon=True)
        thread.start()
        until(lambda: served.engine.requests)
        start = time.monotonic()
    assert time.monotonic() - start < 10  # the answer would have taken 20 or more
    until(lambda: served.engine.ended == ["cancelled"])
    thread.join()


def test_running_answers_are_finished_before_the_end(owl):
    with Served(owl, "See an owl. " * 3, chunk=1, seconds=0.03) as served:
        found = []
        thread = threading.Thread(target=lambda: found.append(served.ask()))
        thread.start()
        until(lambda: served.engine.requests)
        time.sleep(0.1)
    thread.join()
    assert found[0].status_code == 200
    assert found[0].json()["choices"][0]["finish_reason"] == "stop"
    assert served.engine.is_closed
