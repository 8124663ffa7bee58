"""Who may ask, and what operators see."""

import io
import re
import statistics
import time
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families
from served import ASK, messages, until
from starlette.testclient import TestClient

from owl_jax.errors import UserError
from owl_jax.serving import keys as keys_module
from owl_jax.serving.app import make_app
from owl_jax.serving.keys import read_keys
from owl_jax.serving.service import Service
from owl_jax.serving.settings import Settings

KEYS = ("a-first-key-1234", "a-second-key-5678")


def test_keys(serve):
    served = serve(keys=KEYS)
    for key in KEYS:
        served.client.headers["Authorization"] = f"Bearer {key}"
        assert served.ask().status_code == 200
        assert served.client.get("/v1/models").status_code == 200
    for wrong in ("", "Bearer", f"Bearer {KEYS[0]}x", "Bearer a", f"Basic {KEYS[0]}", KEYS[0]):
        served.client.headers["Authorization"] = wrong
        for response in (served.ask(), served.client.get("/v1/models"), served.client.get("/x")):
            assert response.status_code == 401
            assert response.headers["www-authenticate"] == "Bearer"
            assert response.json()["error"]["code"] == "invalid_api_key"
            assert KEYS[0] not in response.text
        assert served.client.get("/health").status_code == 200
        assert served.client.get("/metrics").status_code == 200
    assert KEYS[0] not in served.log.getvalue()
    assert not any(request.seed is None for request in served.engine.requests)
    assert len(served.engine.requests) == 2


def test_a_request_without_a_key_is_not_read(serve):
    served = serve(keys=KEYS)
    del served.client.headers["Authorization"]
    assert served.client.post("/v1/chat/completions", content=b"{").status_code == 401


def test_every_key_is_compared_in_constant_time(monkeypatch):
    compared = []
    real = keys_module.hmac.compare_digest
    monkeypatch.setattr(
        keys_module.hmac, "compare_digest", lambda *pair: compared.append(pair) or real(*pair)
    )
    guard = keys_module.Keys(None, KEYS)
    for key in (KEYS[0], "x"):
        scope = {"headers": [(b"authorization", f"Bearer {key}".encode())]}
        assert guard._is_known(scope) == (key in KEYS)
    assert len(compared) == 2 * len(KEYS)
    assert all(len(a) == len(b) == 32 for a, b in compared)


def test_a_file_of_keys(tmp_path):
    path = tmp_path / "keys"
    path.write_text(f"# ours\n\n  {KEYS[0]}\n{KEYS[1]}\n")
    assert read_keys(path) == KEYS
    for text, words in (("# none\n", "no keys"), ("short\n", "less than 8"), ("\xff", "read")):
        path.write_bytes(text.encode("latin-1"))
        with pytest.raises(UserError, match=words):
            read_keys(path)
    with pytest.raises(UserError, match="cannot be read"):
        read_keys(tmp_path)


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200),
        ("LOCALHOST:8000", 200),
        ("127.0.0.1:5", 200),
        ("[::1]:8000", 200),
        ("owls.example", 421),
        ("127.0.0.1.owls.example:8000", 421),
        ("", 421),
    ],
)
def test_names_of_this_machine(host, status):
    """A page of owls.example may point its name to 127.0.0.1."""
    service = Service(Settings(), "tiny")
    client = TestClient(make_app(service, is_local=True, log=io.StringIO()))
    assert client.get("/metrics", headers={"Host": host}).status_code == status
    client = TestClient(make_app(service, KEYS, is_local=True, log=io.StringIO()))
    assert client.get("/metrics", headers={"Host": host}).status_code == 200


def test_a_line_for_each_request(serve):
    served = serve()
    secret = "the secret question"
    asks = (
        lambda: served.ask(messages=messages(secret), user=secret),
        lambda: served.client.get("/health"),
        lambda: served.ask(model=secret),
    )
    for number, ask in enumerate(asks, start=1):
        ask()
        until(lambda number=number: len(served.lines()) == number)
    first, second, third = served.lines()
    assert (first["method"], first["path"]) == ("POST", "/v1/chat/completions")
    assert first["status"] == 200 and first["model"] == "tiny"
    assert first["prompt_tokens"] > 3 and first["completion_tokens"] > 1
    assert 0 < first["seconds"] < 30
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT[\d:.]+\+00:00", first["time"])
    assert (second["path"], second["status"]) == ("/health", 200)
    assert third["status"] == 404
    assert len({line["request_id"] for line in served.lines()}) == 3
    assert "secret" not in served.log.getvalue() and "owl" not in served.log.getvalue()


def test_request_ids(plain):
    assert plain.client.get("/health").headers["x-request-id"]
    given = plain.client.get("/health", headers={"X-Request-Id": "ann-5"})
    assert given.headers["x-request-id"] == "ann-5"
    for bad in ("a b", "a" * 200, 'a"b', "\xe9".encode("latin-1")):
        answered = plain.client.get("/health", headers={"X-Request-Id": bad})
        assert re.fullmatch("[0-9a-f]{32}", answered.headers["x-request-id"])


NAMES = (
    *("num_requests_running", "num_requests_waiting", "kv_cache_usage_perc", "prompt_tokens"),
    *("generation_tokens", "request_success", "time_to_first_token_seconds"),
    *("inter_token_latency_seconds", "e2e_request_latency_seconds", "num_preemptions"),
    *("request_time_per_output_token_seconds", "compilations", "encoded_media", "cached_media"),
)


@pytest.mark.parametrize("prefix", ["owl", "vllm"])
def test_metrics(serve, prefix):
    served = serve("See an owl.", chunk=1, seconds=0.01, settings=Settings(metrics_prefix=prefix))
    served.ask()
    served.ask(max_tokens=2)
    served.ask(model="unknown")
    until(lambda: len(served.lines()) == 3)
    response = served.client.get("/metrics")
    assert response.headers["content-type"].startswith("text/plain; version=0.0.4")
    families = {family.name: family for family in text_string_to_metric_families(response.text)}
    assert {f"{prefix}:{name}" for name in NAMES} <= set(families)

    def samples(name, suffix=""):
        family = families[f"{prefix}:{name}"]
        return {
            tuple(sample.labels[key] for key in sorted(sample.labels)): sample.value
            for sample in family.samples
            if sample.name == f"{prefix}:{name}{suffix}"
        }

    new = served.engine.stats().new_tokens
    assert samples("generation_tokens", "_total") == {("tiny",): new}
    prompts = served.engine.stats().prompt_tokens
    assert samples("prompt_tokens", "_total") == {("tiny",): prompts}
    ended = samples("request_success", "_total")
    assert ended == {("stop", "tiny"): 1, ("length", "tiny"): 1}
    assert samples("time_to_first_token_seconds", "_count") == {("tiny",): 2}
    assert samples("inter_token_latency_seconds", "_count") == {("tiny",): new - 2}
    assert samples("e2e_request_latency_seconds", "_count") == {("tiny",): 2}
    between = samples("inter_token_latency_seconds", "_sum")[("tiny",)] / (new - 2)
    assert 0.005 < between < 1
    assert samples("kv_cache_usage_perc") == {("tiny",): 0.5}
    assert samples("num_preemptions", "_total") == {("tiny",): 0}
    assert samples("http_responses", "_total") == {("200",): 2, ("404",): 1}


def test_every_metric_is_in_the_page(plain):
    page = (Path(__file__).parents[2] / "docs/serving.md").read_text()
    families = list(text_string_to_metric_families(plain.client.get("/metrics").text))
    told = [family for family in families if not family.name.endswith("_created")]
    assert len(told) > 12
    for family in told:
        name = family.name.removeprefix("owl:") + "_total" * (family.type == "counter")
        assert f"`{name}" in page, name


def test_answers_wait_for_nobody(serve):
    """The event loop answers /health while pictures are decoded and tokens stream."""
    served = serve("See an owl. " * 9, chunk=1, seconds=0.01)
    with served.client.stream("POST", "/v1/chat/completions", json={**ASK, "stream": True}) as got:
        times = []
        for _ in range(10):
            start = time.monotonic()
            assert served.client.get("/health").status_code == 200
            times.append(time.monotonic() - start)
        got.read()
    assert statistics.median(times) < 0.2
