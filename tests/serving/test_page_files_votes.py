"""The page's files and the votes, without a browser."""

import json
import os
from concurrent.futures import ThreadPoolExecutor

import pytest
from served import Served, messages, picture_part

from owl_jax.errors import UserError
from owl_jax.serving.page import FOLDER, PATHS
from owl_jax.serving.service import Service
from owl_jax.serving.settings import Limits, Settings
from owl_jax.serving.votes import Votes

KEY = "a-key-for-tests"
SAID = [*messages(picture_part(), "What?"), {"role": "assistant", "content": "An owl."}]
VOTE = {"vote": "up", "id": "chatcmpl-1", "model": "tiny", "messages": SAID}


@pytest.fixture(scope="module")
def served(owl, tmp_path_factory):
    """Needs a key, and keeps votes up to 64 KB."""
    path = tmp_path_factory.mktemp("kept") / "votes.jsonl"
    settings = Settings(Limits(body_bytes=1 << 16), votes_file=str(path), votes_bytes=1 << 16)
    with Served(owl, settings=settings, keys=(KEY,), adapters=("birds",)) as served:
        served.votes = path
        yield served


@pytest.fixture(autouse=True)
def no_votes(served):
    os.truncate(served.votes, 0)


def kept(served):
    return [json.loads(line) for line in served.votes.read_text().splitlines()]


def test_files_are_open_and_guarded_by_headers(served):
    assert {"/", "/static/main.js", "/static/style.css", "/static/owl.svg"} <= PATHS
    assert len(PATHS) == len(list(FOLDER.iterdir())), "every file is served"
    open_client = {"headers": {"Authorization": ""}}
    for path in PATHS:
        response = served.client.get(path, **open_client)
        assert response.status_code == 200 and response.content
        policy = dict(
            each.split(" ", 1) for each in response.headers["content-security-policy"].split("; ")
        )
        assert policy["default-src"] == policy["frame-ancestors"] == "'none'"
        assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
        assert "unsafe" not in str(policy) and "http" not in str(policy)
        assert response.headers["x-content-type-options"] == "nosniff"
        assert response.headers["referrer-policy"] == "no-referrer"
        tag = {"If-None-Match": response.headers["etag"], "Authorization": ""}
        again = served.client.get(path, headers=tag)
        assert again.status_code == 304 and not again.content
    for path in ("/server.json", "/static/", "/static/../keys.py", "/static/unknown.js"):
        assert served.client.get(path, **open_client).status_code == 401
        assert served.client.get(path).status_code == (200 if path == "/server.json" else 404)
    assert served.client.post("/").status_code == 405


def test_what_the_page_asks(served):
    facts = served.client.get("/server.json").json()
    assert facts["votes"] is True and facts["max_body_bytes"] == 1 << 16
    assert facts["temperature"] == 1 and facts["max_new_tokens"] is None


def test_a_vote_is_a_line(served):
    for vote in ("up", "none"):
        response = served.client.post("/votes", json={**VOTE, "vote": vote})
        assert (response.status_code, response.content) == (204, b"")
    first, second = kept(served)
    assert first["time"] <= second["time"]
    assert {key: first[key] for key in VOTE} == VOTE
    assert second["vote"] == "none"
    assert served.votes.stat().st_mode & 0o077 == 0, "nobody else reads it"


@pytest.mark.parametrize(
    ("change", "status", "words"),
    [
        ({"vote": "maybe"}, 400, "vote"),
        ({"id": ""}, 400, "id"),
        ({"id": "x" * 200}, 400, "id"),
        ({"model": "unknown"}, 404, "does not exist"),
        ({"messages": []}, 400, "messages"),
        ({"messages": SAID[:1]}, 400, "assistant's answer last"),
        ({"messages": [{"role": "user", "content": 5}]}, 400, "messages"),
        ({"comment": "hello"}, 400, "comment"),
    ],
)
def test_votes_are_checked(served, change, status, words):
    response = served.client.post("/votes", json={**VOTE, **change})
    assert response.status_code == status and words in response.json()["error"]["message"]
    assert kept(served) == []


def test_votes_need_json_a_key_and_a_limit(served):
    form = {"Content-Type": "text/plain"}
    assert served.client.post("/votes", content=json.dumps(VOTE), headers=form).status_code == 415
    assert served.client.post("/votes", json=VOTE, headers={"Authorization": ""}).status_code == 401
    assert served.client.post("/votes", json={**VOTE, "id": "x" * 70_000}).status_code == 413
    assert kept(served) == []


def test_votes_at_once_and_a_full_file(served):
    long = {**VOTE, "messages": [{"role": "assistant", "content": "owl " * 2000}]}
    with ThreadPoolExecutor(8) as pool:
        asked = pool.map(lambda _: served.client.post("/votes", json=long), range(12))
        statuses = sorted(response.status_code for response in asked)
    assert statuses == [204] * len(kept(served)) + [507] * (12 - len(kept(served)))
    assert 0 < len(kept(served)) < 12


def test_votes_are_off_without_a_file(plain):
    response = plain.client.post("/votes", json=VOTE)
    assert response.status_code == 404 and "keeps no votes" in response.json()["error"]["message"]
    assert plain.client.get("/server.json").json()["votes"] is False


def test_a_file_that_cannot_be_written(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path, tmp_path / "missing" / "votes", tmp_path / "fifo", "a\0b"):
        with pytest.raises(UserError, match=r"--votes_file=.* cannot be written"):
            Votes(Service(Settings(votes_file=str(path)), "tiny"))
