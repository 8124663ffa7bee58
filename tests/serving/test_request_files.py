"""Files of requests: answers, errors, interrupted runs, several processes."""

import fcntl
import json

import pytest
from engine_double import EngineDouble
from served import messages, picture_part

from owl_jax.errors import UserError
from owl_jax.serving.batch import Batch
from owl_jax.serving.download import Downloads
from owl_jax.serving.job import Planner
from owl_jax.serving.model import Model
from owl_jax.serving.settings import Settings


def chat(custom_id, *parts, **fields):
    body = {"messages": messages(*parts), **fields}
    return {"custom_id": custom_id, "method": "POST", "url": "/v1/chat/completions", "body": body}


def write(path, *lines):
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return path


@pytest.fixture
def run(owl, tmp_path):
    """Answers a file with an engine that says "An owl." unless told otherwise."""

    def start(source, target="answers.jsonl", script=None, shard=(0, 1)):
        words = [*owl.tokenizer.encode("An owl."), owl.tokenizer.eos_id]
        engine = EngineDouble(script or (lambda request: words))
        model = Model("tiny", owl, engine)
        planner = Planner(model, Settings(), Downloads((), 1, 1))
        batch = Batch(source, tmp_path / target, *shard)
        batch.run(planner, 2, lambda progress: None)
        return batch.progress, engine

    return start


def answers(path):
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert all(line["error"] is None and line["id"] for line in lines)
    assert len({line["custom_id"] for line in lines}) == len(lines)
    return {line["custom_id"]: line["response"] for line in lines}


def test_each_request_gets_what_the_server_would_answer(run, tmp_path):
    source = write(
        tmp_path / "requests.jsonl",
        chat("text", "What is it?"),
        chat("picture", "What is it?", picture_part(), n=2),
        chat("stop", "What is it?", stop=" owl"),
        {
            "custom_id": "plain",
            "url": "/v1/completions",
            "body": {"prompt": "Human: What?", "max_tokens": 3},
        },
        chat("model", "What is it?", model="other"),
        chat("stream", "What is it?", stream=True),
        chat("field", "What is it?", heat=1),
        {"custom_id": "empty", "url": "/v1/chat/completions", "body": {}},
    )
    progress, _ = run(source)
    found = answers(tmp_path / "answers.jsonl")
    text = {
        id: [choice["message"]["content"] for choice in found[id]["body"]["choices"]]
        for id in ("text", "picture", "stop")
    }
    assert text == {"text": ["An owl."], "picture": ["An owl."] * 2, "stop": ["An"]}
    assert found["plain"]["body"]["choices"][0]["finish_reason"] == "length"
    assert found["plain"]["body"]["usage"]["completion_tokens"] == 3
    statuses = {id: response["status_code"] for id, response in found.items()}
    assert statuses == {
        **dict.fromkeys(("text", "picture", "stop", "plain"), 200),
        "model": 404,
        "stream": 400,
        "field": 400,
        "empty": 400,
    }
    assert found["stream"]["body"]["error"]["param"] == "stream"
    assert found["field"]["body"]["error"]["param"] == "heat"
    assert (progress.answered, progress.statuses) == (8, {200: 4, 400: 3, 404: 1})
    assert progress.new_tokens > 0


def test_a_run_goes_on_where_it_was(run, tmp_path):
    lines = [chat(f"{i}", f"What is {i}?") for i in range(6)]
    source, target = write(tmp_path / "requests.jsonl", *lines), tmp_path / "answers.jsonl"
    run(write(tmp_path / "some.jsonl", *lines[:3]))
    whole = target.read_bytes()
    target.write_bytes(whole + b'{"id": "batch_req_1", "custom_id": "3", "resp')  # killed
    progress, engine = run(source)
    assert target.read_bytes().startswith(whole)
    assert set(answers(target)) == {f"{i}" for i in range(6)}
    assert (progress.total, progress.earlier, progress.answered) == (6, 3, 3)
    assert len(engine.requests) == 3
    progress, engine = run(source)
    assert (progress.earlier, progress.answered, engine.requests) == (6, 0, [])


def test_failures_are_asked_again(run, tmp_path):
    source = write(tmp_path / "requests.jsonl", chat("a", "What?"), chat("b", "Who?", model="no"))
    run(source, script=lambda request: RuntimeError("the device is gone"))
    found = answers(tmp_path / "answers.jsonl")
    assert {id: response["status_code"] for id, response in found.items()} == {"a": 500, "b": 404}
    assert "the device is gone" not in json.dumps(found)
    progress, _ = run(source)
    assert (progress.earlier, progress.answered) == (1, 1)
    assert answers(tmp_path / "answers.jsonl")["a"]["status_code"] == 200


def test_a_file_that_another_process_writes_is_left_alone(run, tmp_path):
    source = write(tmp_path / "requests.jsonl", chat("a", "What?"), chat("b", "Who?"))
    target = tmp_path / "answers.jsonl"
    run(write(tmp_path / "some.jsonl", chat("a", "What?")))
    target.write_bytes(target.read_bytes() + b'{"id": "batch_req_1", "cust')  # being written
    before = target.stat().st_ino, target.read_bytes()
    with target.open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(UserError, match="another process is writing it"):
            Batch(source, target, 0, 1)
    assert (target.stat().st_ino, target.read_bytes()) == before


def test_processes_share_the_lines(run, tmp_path):
    lines = [chat(f"{i}", f"What is {i}?") for i in range(7)]
    source = write(tmp_path / "requests.jsonl", *lines)
    found = []
    for index in range(3):
        run(source, f"answers-{index}.jsonl", shard=(index, 3))
        found.append(set(answers(tmp_path / f"answers-{index}.jsonl")))
    assert found == [{"0", "3", "6"}, {"1", "4"}, {"2", "5"}]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["{"], "line 1: Input data was truncated; expected {"),
        (['{"custom_id": "a", "url": "/v1/files", "body": {}}'], "line 1: Invalid enum value"),
        (['{"custom_id": "a", "url": "/v1/completions", "body": {}}', "", "[]"], "line 3: "),
        (
            ['{"custom_id": "a", "url": "/v1/completions", "body": {}}'] * 2,
            "line 2: custom_id 'a' is there twice",
        ),
        (['{"custom_id": "a", "url": "/v1/completions", "body": {}, "x": 1}'], "unknown field"),
    ],
)
def test_a_file_that_is_none_of_requests_is_refused(lines, message, tmp_path):
    source = tmp_path / "requests.jsonl"
    source.write_text("\n".join(lines))
    with pytest.raises(UserError) as caught:
        Batch(source, tmp_path / "answers.jsonl", 0, 1)
    assert str(caught.value).startswith(f"{source}: ") and message in str(caught.value)


def test_answers_of_other_requests_are_kept_apart(run, tmp_path):
    run(write(tmp_path / "one.jsonl", chat("a", "What?")))
    other = write(tmp_path / "two.jsonl", chat("b", "What?"))
    with pytest.raises(UserError, match=r"has answers to 1 .* not in .* such as 'a'"):
        Batch(other, tmp_path / "answers.jsonl", 0, 1)
    with pytest.raises(UserError, match=r"line 1: .* it is no output of this command"):
        Batch(other, other, 0, 1)
    assert json.loads(other.read_text())["custom_id"] == "b"
