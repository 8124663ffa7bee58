"""The command owl_jax.generate."""

import itertools
import json

import forked
import pytest
import tiny

ASK = [{"role": "user", "content": "What do you see?"}]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny.write_model(tmp_path_factory.mktemp("generate") / "owlet")


def write(path, count):
    lines = [
        {
            "custom_id": f"{i}",
            "method": "POST",
            "url": "/v1/chat/completions",
            "body": {"messages": ASK, "max_tokens": 3 + i, "temperature": 0},
        }
        for i in range(count)
    ]
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return path


def generate(model, source, target, *arguments):
    return forked.run(
        *("-m", "owl_jax.generate", f"--model={model}", f"--input={source}", f"--output={target}"),
        *("--num_rows=2", "--row_length=128", *arguments),
    )


def test_a_file_is_answered_once(model, tmp_path):
    source, target = write(tmp_path / "requests.jsonl", 5), tmp_path / "answers.jsonl"
    result = generate(model, source, target)
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[-1].startswith("5 answers with ")
    bodies = {
        line["custom_id"]: line["response"]["body"]
        for line in map(json.loads, target.read_text().splitlines())
    }
    assert {id: body["usage"]["completion_tokens"] for id, body in bodies.items()} == {
        f"{i}": 3 + i for i in range(5)
    }
    texts = [bodies[f"{i}"]["choices"][0]["message"]["content"] for i in range(5)]
    assert all(longer.startswith(text) for text, longer in itertools.pairwise(texts))
    result = generate(model, source, target)
    assert (result.returncode, result.stdout) == (0, f"{target} has 5 of 5 answers already\n")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--input=none.jsonl"], "--input=none.jsonl: No such file or directory"),
        (["--shard_index=2", "--num_shards=2"], "--shard_index=2 --num_shards=2: expected 0 to 1"),
        (["--num_rows=0"], "--num_rows is 0; expected at least 1"),
        (["--adapter=birds"], "--adapter=birds; expected --adapter=NAME=DIR"),
    ],
)
def test_mistakes(model, tmp_path, arguments, words):
    source = write(tmp_path / "requests.jsonl", 1)
    result = generate(model, source, tmp_path / "answers.jsonl", *arguments)
    assert result.returncode == 1
    assert len(result.stderr.splitlines()) == 1 and words in result.stderr
    assert not (tmp_path / "answers.jsonl").exists()
