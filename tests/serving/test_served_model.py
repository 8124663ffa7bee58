"""The real engine behind the server: a tiny model with random weights."""

import json
from concurrent.futures import ThreadPoolExecutor

import pytest
from served import Served, messages, picture_part, png, until

from owl_jax.inference.engine import Engine

BLUE = picture_part(png(colour=(0, 0, 255)))


@pytest.fixture(scope="module")
def served(owl):
    engine = Engine(owl, num_rows=2, row_length=192)
    engine.warm_up()
    engine.start()
    with Served(owl, engine=engine) as served:
        yield served


def test_answers_are_those_of_chat(served, owl):
    asked = [
        messages("What do you see?"),
        messages(picture_part(), "What do you see?"),
        messages(BLUE, "What do you see?"),
        messages("What", BLUE, "do you see?"),
    ]

    def answer(question):
        return served.text(messages=question, temperature=0, max_tokens=12)

    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(answer, asked))
    assert answers == [owl.chat(question, max_new_tokens=12) for question in asked]
    assert len(set(answers)) > 1
    streamed = served.chunks(messages=asked[1], temperature=0, max_tokens=12)
    pieces = (chunk["choices"][0]["delta"].get("content", "") for chunk in streamed)
    assert "".join(pieces) == answers[1]


def test_a_seed_repeats_an_answer(served):
    ask = {"temperature": 1.5, "max_tokens": 12, "n": 2}
    first, second, other = (served.ask(**ask, seed=seed).json()["choices"] for seed in (5, 5, 7))
    assert first == second != other
    assert first[0]["message"] != first[1]["message"]


def test_logprobs_are_the_models(served):
    body = served.ask(temperature=0, max_tokens=4, logprobs=True, top_logprobs=2).json()
    for each in body["choices"][0]["logprobs"]["content"]:
        best, second = (top["logprob"] for top in each["top_logprobs"])
        assert best == each["logprob"] >= second and best <= 0


def test_json_answers(served):
    schema = {
        "type": "object",
        "properties": {"owl": {"type": "boolean"}},
        "required": ["owl"],
        "additionalProperties": False,
    }
    format = {"type": "json_schema", "json_schema": {"schema": schema}}
    for temperature in (0, 1.5):
        body = served.ask(
            response_format=format, temperature=temperature, seed=1, max_tokens=100
        ).json()
        choice = body["choices"][0]
        assert choice["finish_reason"] == "stop", choice
        assert json.loads(choice["message"]["content"])["owl"] in (True, False)


def test_a_least_number_of_tokens(served):
    body = served.ask(min_tokens=20, max_tokens=20, temperature=0).json()
    assert body["usage"]["completion_tokens"] == 20
    body = served.ask(ignore_eos=True, max_tokens=20, temperature=0).json()
    assert body["usage"]["completion_tokens"] == 20


def test_the_second_turn_is_not_computed_again(served):
    question = messages(picture_part(png(colour=(9, 99, 9))), "What do you see? " * 4)
    served.ask(messages=question, max_tokens=2)
    again = served.ask(messages=question, max_tokens=2).json()
    assert again["usage"]["prompt_tokens_details"]["cached_tokens"] >= 64


def test_cached_tokens_are_those_of_all_prompts(served):
    prompts = ["An owl sees. " * 6, "A bird sings. " * 6]
    ask = {"path": "/v1/completions", "max_tokens": 1}
    first = served.ask(prompt=prompts, n=2, **ask).json()["usage"]
    assert first["prompt_tokens_details"]["cached_tokens"] == 0
    alone = [served.ask(prompt=prompt, **ask).json()["usage"] for prompt in prompts]
    cached = [usage["prompt_tokens_details"]["cached_tokens"] for usage in alone]
    assert min(cached) >= 64
    both = served.ask(prompt=prompts, **ask).json()["usage"]
    assert both["prompt_tokens_details"]["cached_tokens"] == sum(cached)
    assert both["prompt_tokens"] == sum(usage["prompt_tokens"] for usage in alone)


def test_a_client_that_leaves_frees_its_row(served):
    with served.client.stream(
        "POST",
        "/v1/chat/completions",
        json={"messages": messages("What?"), "stream": True, "ignore_eos": True},
    ) as response:
        next(response.iter_bytes())
    until(lambda: served.engine.stats().running == 0)
    assert served.text(max_tokens=2, temperature=0)
