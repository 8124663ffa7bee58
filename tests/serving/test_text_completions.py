"""POST /v1/completions: a prompt as it is, without a conversation's format."""

import numpy as np
import pytest

PATH = "/v1/completions"


def test_a_completion(plain, owl):
    response = plain.ask(PATH, prompt="What do", temperature=0)
    assert response.status_code == 200, response.text
    body = response.json()
    assert body["object"] == "text_completion" and body["id"].startswith("cmpl-")
    assert body["choices"] == [
        {"index": 0, "text": "An owl.", "logprobs": None, "finish_reason": "stop"}
    ]
    ids = [owl.tokenizer.bos_id, *owl.tokenizer.encode("What do")]
    request = plain.engine.requests[-1]
    np.testing.assert_array_equal(request.prompt.input_ids, ids)
    assert request.max_new_tokens == 16  # OpenAI's default
    assert body["usage"]["prompt_tokens"] == len(ids)


def test_the_formats_stop_texts_are_a_chats_alone(serve):
    served = serve("a\nHuman: b")
    assert served.ask(PATH, prompt="x").json()["choices"][0]["text"] == "a\nHuman: b"


def test_ids_as_prompts(plain):
    plain.ask(PATH, prompt=[5, 6, 7])
    assert plain.engine.requests[-1].prompt.input_ids.tolist() == [5, 6, 7]


@pytest.mark.parametrize("prompt", [["What", "see"], [[5, 6], [7]]])
def test_several_prompts(plain, prompt):
    body = plain.ask(PATH, prompt=prompt, n=2).json()
    assert [choice["index"] for choice in body["choices"]] == [0, 1, 2, 3]
    lengths = [len(request.prompt.input_ids) for request in plain.engine.requests[-4:]]
    assert lengths[0] == lengths[1] and lengths[2] == lengths[3]
    assert body["usage"]["prompt_tokens"] == lengths[0] + lengths[2]


def test_logprobs_of_a_completion(plain, owl):
    found = plain.ask(PATH, prompt="What", logprobs=2).json()["choices"][0]["logprobs"]
    ids = owl.tokenizer.encode("An owl.")
    assert len(found["tokens"]) == len(found["token_logprobs"]) == len(ids)
    assert "".join(found["tokens"]).strip() == "An owl."
    assert all(len(top) == 2 for top in found["top_logprobs"])
    lengths = [len(token) for token in found["tokens"]]
    assert found["text_offset"] == [sum(lengths[:i]) for i in range(len(lengths))]


def test_a_stream_of_a_completion(plain):
    chunks = plain.chunks(PATH, prompt="What", stream_options={"include_usage": True})
    assert "".join(c["choices"][0]["text"] for c in chunks[:-1]) == "An owl."
    assert chunks[-2]["choices"][0]["finish_reason"] == "stop"
    assert chunks[-1]["choices"] == [] and chunks[-1]["usage"]["completion_tokens"] > 1


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"prompt": []}, "prompt"),
        ({"prompt": ["a", 5]}, "prompt"),
        ({"prompt": [10_000]}, "prompt"),
        ({"prompt": [-1]}, "prompt"),
        ({"prompt": [[]]}, "prompt"),
        ({"prompt": "a", "echo": True}, "echo"),
        ({"prompt": "a", "suffix": "b"}, "suffix"),
        ({"prompt": "a", "best_of": 3}, "best_of"),
        ({"prompt": "a", "logprobs": 21}, "logprobs"),
        ({"prompt": ["a"] * 9}, "prompt"),
        ({}, None),
    ],
)
def test_refused(plain, fields, param):
    response = plain.ask(PATH, **fields)
    assert response.status_code == 400, response.text
    assert response.json()["error"]["param"] == param
