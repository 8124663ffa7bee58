"""OpenAI's client for Python, as it is."""

import openai
import pytest
from served import messages, picture_part, until

QUESTION = [{"role": "user", "content": "What do you see?"}]


@pytest.fixture
def client(serve):
    served = serve("See an owl.", chunk=1, keys=("a-key-for-tests",), adapters=("birds",))
    with openai.OpenAI(base_url=f"{served.url}/v1", api_key="a-key-for-tests") as client:
        client.served = served
        yield client


def test_chat(client):
    answer = client.chat.completions.create(
        model="tiny", messages=messages(picture_part(), "What?"), n=2, logprobs=True, seed=1
    )
    assert [choice.message.content for choice in answer.choices] == ["See an owl."] * 2
    assert answer.choices[0].finish_reason == "stop"
    assert answer.choices[0].logprobs.content[0].bytes
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    # An answer goes back as the client has it.
    spoken = [*QUESTION, answer.choices[0].message.model_dump(), *QUESTION]
    assert client.chat.completions.create(model="birds", messages=spoken).model == "birds"


def test_a_stream(client):
    stream = client.chat.completions.create(
        model="tiny", messages=QUESTION, stream=True, stream_options={"include_usage": True}
    )
    *chunks, last = stream
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "See an owl."
    assert last.usage.completion_tokens > 1


def test_a_stream_that_is_left(client):
    client.served.engine.seconds = 0.05
    with client.chat.completions.create(model="tiny", messages=QUESTION, stream=True) as stream:
        next(iter(stream))
    until(lambda: client.served.engine.ended == ["cancelled"])


def test_completions_and_models(client):
    answer = client.completions.create(model="tiny", prompt="What", logprobs=1)
    assert answer.choices[0].text == "See an owl."
    assert [model.id for model in client.models.list()] == ["tiny", "birds"]
    assert client.models.retrieve("birds").id == "birds"


def test_structured_answers(client):
    client.served.answer = '{"owls": 2}'
    schema = {"type": "object", "properties": {"owls": {"type": "integer"}}}
    answer = client.chat.completions.create(
        model="tiny",
        messages=QUESTION,
        response_format={"type": "json_schema", "json_schema": {"name": "a", "schema": schema}},
    )
    assert answer.choices[0].message.content == '{"owls": 2}'


def test_errors(client):
    quick = client.with_options(max_retries=0)
    with pytest.raises(openai.NotFoundError) as caught:
        quick.chat.completions.create(model="gpt-5", messages=QUESTION)
    assert caught.value.code == "model_not_found" and caught.value.param == "model"
    with pytest.raises(openai.BadRequestError, match="192"):
        quick.chat.completions.create(model="tiny", messages=messages("owl " * 300))
    with pytest.raises(openai.AuthenticationError):
        quick.with_options(api_key="wrong").models.list()
    client.served.answer = ValueError("lost")
    with pytest.raises(openai.InternalServerError) as failed:
        quick.chat.completions.create(model="tiny", messages=QUESTION)
    assert failed.value.request_id
    with pytest.raises(openai.APIError, match="internal error"):
        list(quick.chat.completions.create(model="tiny", messages=QUESTION, stream=True))
