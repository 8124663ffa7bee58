import json
import socket
import time

import pytest
from judge_double import JudgeDouble, completion

from owl_jax.errors import UserError
from owl_jax.evaluation.benchmark import Item, JudgeCall, Verdict
from owl_jax.evaluation.benchmarks.jsonl import Jsonl
from owl_jax.evaluation.judge import Judge, Server, make_server, recorded_replies


def calls_of(*prompts):
    return [JudgeCall(prompt, prompt) for prompt in prompts]


def server_of(double, **settings):
    return Server(double.url, "judge", **{"pause": 0.001, **settings})


def ask(double, path, *prompts, **settings):
    with Judge(server_of(double, **settings), path) as judge:
        return judge.ask(calls_of(*prompts))


@pytest.fixture
def path(tmp_path):
    return tmp_path / "out" / "judge_replies.jsonl"


def echo(prompt, count):
    return f"reply to {prompt}"


def test_replies_come_in_the_order_of_the_questions_and_are_kept(path):
    with JudgeDouble(echo) as double:
        assert ask(double, path, "a", "b", "c") == ["reply to a", "reply to b", "reply to c"]
        assert ask(double, path, "c", "a", "d") == ["reply to c", "reply to a", "reply to d"]
        assert ask(double, path, "e", "e") == ["reply to e"] * 2
        assert sorted(double.prompts()) == ["a", "b", "c", "d", "e"]
    records = [json.loads(line) for line in path.read_text().splitlines()]
    assert {record["prompt"]: record["reply"] for record in records} == {
        prompt: f"reply to {prompt}" for prompt in "abcde"
    }


def test_what_is_sent(path):
    with JudgeDouble(echo) as double, Judge(server_of(double, key="secret"), path) as judge:
        judge.ask([JudgeCall("1", "first", system="be fair"), JudgeCall("1", "again", attempt=1)])
        first, again = sorted(double.asked, key=lambda body: body["temperature"])
        assert double.keys == ["Bearer secret"]
    assert first == {
        "model": "judge",
        "messages": [
            {"role": "system", "content": "be fair"},
            {"role": "user", "content": "first"},
        ],
        "temperature": 0,
        "max_tokens": 1024,
    }
    assert again["temperature"] == 1
    assert "secret" not in path.read_text()
    assert "secret" not in repr(server_of(double, key="secret"))


def test_answers_may_have_what_utf8_cannot_encode(path):
    with JudgeDouble(lambda prompt, count: f"{prompt} 因为") as double:
        assert ask(double, path, "\ud83d 猫") == ["? 猫 因为"]
        assert ask(double, path, "\ud83d 猫") == ["? 猫 因为"]
        assert double.prompts() == ["? 猫"]


@pytest.mark.parametrize(
    "changed",
    [
        {"model": "other"},
        {"fields": {"temperature": 0, "max_tokens": 8}},
    ],
)
def test_another_judge_is_asked_again(changed, path):
    with JudgeDouble(echo) as double:
        ask(double, path, "a")
        with Judge(Server(**{"url": double.url, "model": "judge", **changed}), path) as judge:
            judge.ask(calls_of("a"))
        assert double.prompts() == ["a", "a"]


def test_a_killed_run_asks_nothing_twice(path):
    with JudgeDouble(echo) as double:
        ask(double, path, "a", "b")
        whole = path.read_bytes()
        path.write_bytes(whole[:-5])  # killed while the last line was written
        last = json.loads(whole.splitlines()[-1])["prompt"]
        assert ask(double, path, "a", "b") == ["reply to a", "reply to b"]
        assert sorted(double.prompts()) == sorted(["a", "b", last])
        assert len(path.read_bytes().splitlines()) == 2


@pytest.mark.parametrize(
    "failure",
    [
        (429, {"error": {"message": "slow down"}}, {"Retry-After": "0"}),
        (500, b"oops"),
        (503, {"error": "loading"}),
    ],
)
def test_a_busy_judge_is_asked_again(failure, path):
    with JudgeDouble(lambda prompt, count: failure if count < 2 else "fine") as double:
        assert ask(double, path, "a") == ["fine"]
        assert len(double.asked) == 3


def test_a_judge_that_is_too_slow_is_asked_again(path):
    with JudgeDouble(lambda prompt, count: 1.5 if count == 0 else "fine") as double:
        assert ask(double, path, "a", timeout=0.3) == ["fine"]


@pytest.mark.parametrize(
    ("failure", "words", "asked"),
    [
        ((500, b"oops"), "status 500: oops", 3),
        ((400, {"error": {"message": "too\nlong"}}), "status 400: too long", 1),
        ((200, b"<html>"), "no chat completion: '<html>'", 1),
        ((200, completion(None)), "no text: None", 1),
    ],
)
def test_failures_are_missing_never_kept_and_few(failure, words, asked, path):
    prompts = [str(number) for number in range(50)]
    with JudgeDouble(lambda prompt, count: failure if prompt == "7" else "fine") as double:
        replies = ask(double, path, *prompts, attempts=3)
        assert replies == [None if prompt == "7" else "fine" for prompt in prompts]
        assert double.prompts().count("7") == asked
        assert len(path.read_text().splitlines()) == 49
        double.script = echo
        assert ask(double, path, *prompts)[7] == "reply to 7"
        double.script = lambda prompt, count: failure if prompt == "x" else "fine"
        with pytest.raises(UserError) as caught:
            ask(double, path, "x", "y", *prompts[:10], attempts=3)
    assert "failed for 1 of 12 questions, more than 2%" in str(caught.value)
    assert words in str(caught.value)


@pytest.mark.parametrize("status", [401, 404])
def test_a_judge_that_refuses_ends_the_run(status, path):
    refusal = (status, {"error": {"message": "no model judge"}})
    with (
        JudgeDouble(lambda prompt, count: refusal) as double,
        pytest.raises(UserError, match=f"refuses: status {status}: no model judge"),
    ):
        ask(double, path, "a", "b")


def test_the_start_says_what_is_wrong(tmp_path, path):
    with socket.create_server(("127.0.0.1", 0)) as free:
        url = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
    with pytest.raises(UserError, match=r"no judge there .*OpenAI-compatible"):
        Judge(Server(url, "judge"), path)
    with (
        JudgeDouble(echo, models_status=401) as double,
        pytest.raises(UserError, match=r"does not accept the key .401.; .*JUDGE_API_KEY"),
    ):
        Judge(server_of(double), path)
    with JudgeDouble(echo, models_status=404) as double:  # such servers list no models
        path.parent.mkdir()
        path.write_text('{"id": 1, "answer": "B"}\n')
        with pytest.raises(UserError, match=r"line 1: found the keys id, answer"):
            Judge(server_of(double), path)
        with pytest.raises(UserError, match=r"Not a directory"):
            Judge(server_of(double), path / "below" / "a.jsonl")


def test_questions_at_once_are_bounded(path):
    def slow(prompt, count):
        time.sleep(0.02)
        return "fine"

    with JudgeDouble(slow) as double:
        ask(double, path, *map(str, range(12)), concurrency=3)
        assert 1 < double.most_at_once <= 3


def test_what_the_user_gives(tmp_path, monkeypatch):
    monkeypatch.setenv("JUDGE_API_KEY", " from-variable\n")
    server = make_server("http://a.b/v1/chat/completions/", "m")
    assert (server.url, server.key) == ("http://a.b/v1", "from-variable")
    assert server.name == "m at http://a.b/v1"
    key = tmp_path / "key"
    key.write_text("from-file\n")
    assert make_server("https://a.b/v1/", "m", key).key == "from-file"
    with pytest.raises(UserError, match=r"--judge_url=a.b: expected the address"):
        make_server("a.b", "m")
    key.write_text("two words")
    with pytest.raises(UserError, match=r"--judge_key_file=.*key holds no key"):
        make_server("http://a.b", "m", key)


def own_questions(count):
    fields = {"score": "judged", "answers": ("an owl",)}
    return [Item(str(number), f"What is it? {number}", fields=fields) for number in range(count)]


def test_agreement_of_a_judge_with_itself(path):
    """Of four items, one gets another verdict the second time, and one the same in other words."""

    def script(prompt, count):
        if "? 1" in prompt and count:
            return "Incorrect"
        return "Correct." if "? 2" in prompt and count else "Correct"

    items = own_questions(4)
    answers = {item.id: "an owl" for item in items}
    with JudgeDouble(script) as double:
        with Judge(server_of(double), path) as judge:
            assert judge.agreement(Jsonl(), items, answers) is None
            assert (
                Jsonl().judge(items, answers, judge.ask)
                == [Verdict("right", 1.0, {"reply": "Correct"})] * 4
            )
            found = judge.agreement(Jsonl(), items, answers)
            assert (found.items, found.equal_scores, found.equal_replies) == (4, 0.75, 0.5)
        with Judge(server_of(double), path) as judge:
            Jsonl().judge(items, answers, judge.ask)
            assert judge.agreement(Jsonl(), items, answers) == found
        assert len(double.asked) == 8


def test_agreement_takes_a_sample(path):
    items = own_questions(60)
    answers = {item.id: "an owl" for item in items}
    with (
        JudgeDouble(lambda prompt, count: "Correct") as double,
        Judge(server_of(double), path) as judge,
    ):
        Jsonl().judge(items, answers, judge.ask)
        assert judge.agreement(Jsonl(), items, answers).items == 50
        assert len(double.asked) == 110


def test_recorded_replies(tmp_path):
    path = tmp_path / "replies.jsonl"
    path.write_text(
        '{"id": 1, "reply": "one"}\n{"id": "2", "replies": ["a", null, "c"]}\n'
        '{"id": 3, "first": "x", "second": "y"}\n'
    )
    replies = recorded_replies(path)
    assert replies([JudgeCall("1", ""), JudgeCall("1", "", attempt=4)]) == ["one", "one"]
    attempts = [JudgeCall("2", "", attempt=attempt) for attempt in range(4)]
    assert replies(attempts) == ["a", None, "c", "c"]
    parts = [JudgeCall("3", "", part) for part in ("first", "second", "reply")]
    assert replies(parts) == ["x", "y", None]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"id": 1, "reply": "a"}\n{"id": "1", "reply": "b"}', "reply of id '1' twice"),
        ('{"id": 1, "reply": 5}', "reply is no text: 5"),
        ('{"reply": "a"}', "line 1: found the keys reply; expected id"),
    ],
)
def test_files_that_are_no_replies(text, words, tmp_path):
    path = tmp_path / "replies.jsonl"
    path.write_text(text + "\n")
    with pytest.raises(UserError, match=words):
        recorded_replies(path)
