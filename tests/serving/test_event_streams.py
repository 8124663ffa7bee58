"""Answers that are sent piece by piece."""

import time

import httpx
import pytest
from served import ASK, until

from owl_jax.serving.settings import Limits, Settings


def content(chunks, index=0):
    """The text of a choice."""
    return "".join(
        choice["delta"].get("content", "")
        for chunk in chunks
        for choice in chunk["choices"]
        if choice["index"] == index
    )


def test_a_stream(serve):
    served = serve("See an owl.", chunk=1)
    chunks = served.chunks()
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    assert len({chunk["id"] for chunk in chunks}) == 1
    first, *_, last = (chunk["choices"][0] for chunk in chunks)
    assert first["delta"] == {"role": "assistant", "content": ""}
    assert last["delta"] == {} or last["delta"]["content"]
    assert last["finish_reason"] == "stop"
    assert all(chunk["choices"][0]["finish_reason"] is None for chunk in chunks[:-1])
    assert content(chunks) == "See an owl." == served.text()
    assert len(chunks) > 4
    assert not any("usage" in chunk for chunk in chunks)


def test_the_last_chunk_has_the_counts(plain):
    whole = plain.ask().json()["usage"]
    *chunks, last = plain.chunks(stream_options={"include_usage": True})
    assert last["choices"] == [] and last["usage"] == whole
    assert all(chunk["usage"] is None for chunk in chunks)


def test_every_chunk_may_have_the_counts(serve):
    served = serve("See an owl.", chunk=1)
    options = {"include_usage": True, "continuous_usage_stats": True}
    chunks = served.chunks(stream_options=options)
    counts = [c["usage"]["completion_tokens"] for c in chunks if c["usage"]]
    assert counts == sorted(counts) and counts[-1] == counts[-2] > 3


@pytest.mark.parametrize("chunk", [1, 2, 3, 50])
def test_a_stop_text_over_chunks(serve, chunk):
    served = serve("See an owl\nHu man\nHuman: no", chunk=chunk)
    chunks = served.chunks()
    assert content(chunks) == "See an owl\nHu man"
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"


@pytest.mark.parametrize("chunk", [1, 2, 50])
def test_characters_over_chunks(serve, chunk):
    served = serve("\u732b\U0001f989 owl \u732b", chunk=chunk)
    chunks = served.chunks()
    assert content(chunks) == "\u732b\U0001f989 owl \u732b"
    assert all("\ufffd" not in content([chunk]) for chunk in chunks)


def test_a_character_that_is_cut_off(serve, owl):
    ids = owl.tokenizer.encode("a\u732b")
    served = serve(lambda request: ids[:-1], chunk=1)
    assert content(served.chunks()).rstrip("\ufffd") == "a"
    assert content(served.chunks())[-1] == "\ufffd"


def test_streams_of_several_answers(serve):
    served = serve(lambda request: f"An owl {request.seed}.", chunk=1, seconds=0.001)
    chunks = served.chunks(n=2, seed=3, stream_options={"include_usage": True})
    assert [content(chunks, index) for index in range(2)] == ["An owl 3.", "An owl 4."]
    ends = [c["choices"][0] for c in chunks[:-1] if c["choices"][0]["finish_reason"]]
    assert sorted(end["index"] for end in ends) == [0, 1]


def test_logprobs_in_a_stream(serve, owl):
    served = serve("See an owl.\nHuman:", chunk=1)
    chunks = served.chunks(logprobs=True, top_logprobs=1)
    found = [
        each
        for chunk in chunks
        if chunk["choices"][0]["logprobs"]
        for each in chunk["choices"][0]["logprobs"]["content"]
    ]
    whole = served.ask(logprobs=True, top_logprobs=1).json()["choices"][0]["logprobs"]["content"]
    assert found == whole
    assert len(found) == len(owl.tokenizer.encode("See an owl.\nHuman:"))
    assert content(chunks) == "See an owl."


def test_pings_while_nothing_comes(serve):
    served = serve("An owl.", chunk=50, seconds=0.5, settings=Settings(ping_seconds=0.1))
    text = served.ask(stream=True).text
    assert text.count(": ping\n\n") >= 3
    assert text.index(": ping") < text.index("owl")


def test_text_arrives_as_it_is_made(serve):
    served = serve("See an owl. " * 4, chunk=4, seconds=0.1)
    times = []
    with served.client.stream("POST", "/v1/chat/completions", json={**ASK, "stream": True}) as got:
        assert got.headers["x-accel-buffering"] == "no"
        for piece in got.iter_text():
            times.append((time.monotonic(), piece))
    assert len(times) > 4
    assert times[-1][0] - times[0][0] > 0.3


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_goes_away_ends_the_work(serve, stream):
    served = serve("See an owl. " * 40, chunk=1, seconds=0.02, row_length=2000)
    body = {**ASK, "stream": stream, "n": 2}
    if stream:
        with served.client.stream("POST", "/v1/chat/completions", json=body) as response:
            pieces = response.iter_text()
            assert len([next(pieces) for _ in range(4)]) == 4
    else:
        with pytest.raises(httpx.ReadTimeout):
            served.client.post("/v1/chat/completions", json=body, timeout=0.3)
    before = time.monotonic()
    until(lambda: served.engine.ended == ["cancelled"] * 2)
    assert time.monotonic() - before < 1  # the answers would have taken several
    until(lambda: served.log.getvalue())
    (line,) = served.lines()
    assert line["ended"] == "client gone"
    assert line["status"] == (200 if stream else 499)
    assert line["completion_tokens"] > 0
    assert served.text(max_tokens=3)  # the server goes on


def test_a_client_that_reads_slowly_harms_nobody(serve):
    served = serve("See an owl. " * 10, chunk=1, row_length=2000)
    with served.client.stream("POST", "/v1/chat/completions", json={**ASK, "stream": True}) as slow:
        until(lambda: served.engine.ended)
        assert served.text(max_tokens=3)
        assert "[DONE]" in slow.read().decode()


def test_a_fault_within_a_stream(serve):
    served = serve(ValueError("secret"))
    chunks = served.chunks()
    error = chunks[-1]["error"]
    assert error["code"] == "internal_error" and "secret" not in str(chunks)
    until(lambda: served.log.getvalue())
    assert served.lines()[-1]["ended"] == "internal_error"
    assert served.ask().status_code == 500


def test_an_answer_that_takes_too_long(serve):
    settings = Settings(Limits(request_seconds=0.1))
    served = serve("See an owl.", chunk=1, seconds=0.05, settings=settings)
    response = served.ask()
    assert response.status_code == 504
    assert response.json()["error"]["code"] == "timeout"
    assert served.chunks()[-1]["error"]["code"] == "timeout"
