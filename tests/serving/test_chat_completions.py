"""POST /v1/chat/completions: the fields of a request, and what the engine is asked."""

import numpy as np
import pytest
from served import gif, messages, picture_part, png, uri

from owl_jax.inference.sampling import Sampling
from owl_jax.text.media_index import IMAGE_ID, VIDEO_ID


def asked(served, **fields):
    """What the engine is asked for a body."""
    response = served.ask(**fields)
    assert response.status_code == 200, response.text
    return served.engine.requests[-1]


def test_an_answer(plain, owl):
    response = plain.ask(model="tiny")
    assert response.status_code == 200
    body = response.json()
    assert body["object"] == "chat.completion" and body["model"] == "tiny"
    assert body["id"].startswith("chatcmpl-") and body["created"] > 1.7e9
    assert body["choices"] == [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "An owl.", "refusal": None},
            "logprobs": None,
            "finish_reason": "stop",
        }
    ]
    prompt = owl.tokenize([{"role": "user", "content": "What do you see?"}])
    new = len(owl.tokenizer.encode("An owl.")) + 1
    assert body["usage"] == {
        "prompt_tokens": len(prompt.input_ids),
        "completion_tokens": new,
        "total_tokens": len(prompt.input_ids) + new,
        "prompt_tokens_details": {"cached_tokens": 0},
    }
    np.testing.assert_array_equal(plain.engine.requests[-1].prompt.input_ids, prompt.input_ids)


def test_the_settings_of_a_request(plain, owl):
    request = asked(
        plain,
        temperature=0.5,
        top_p=0.9,
        top_k=7,
        presence_penalty=0.1,
        frequency_penalty=-0.2,
        repetition_penalty=1.1,
        seed=5,
        max_tokens=9,
        min_tokens=2,
    )
    assert request.sampling == Sampling(0.5, 7, 0.9, 1.1, 0.1, -0.2)
    assert (request.seed, request.max_new_tokens, request.min_new_tokens) == (5, 9, 2)
    assert request.end_ids == owl.end_ids and request.num_logprobs is None
    assert request.adapter is None and request.deadline is None and request.constraint is None


def test_what_is_not_said(plain):
    first, second = asked(plain), asked(plain)
    assert first.sampling == Sampling(1.0)
    assert first.seed != second.seed
    assert first.max_new_tokens == plain.engine.max_new_tokens(first.prompt)
    assert asked(plain, top_k=-1, top_p=1, temperature=0).sampling == Sampling(0.0, None, 1.0)
    assert asked(plain, top_p=0).sampling.top_k == 1
    assert asked(plain, seed=-1).seed == 2**63 - 1


def test_max_completion_tokens_comes_before_max_tokens(plain):
    assert asked(plain, max_completion_tokens=3, max_tokens=9).max_new_tokens == 3
    # More than fits is a wish, not a mistake.
    request = asked(plain, max_tokens=100_000)
    assert request.max_new_tokens == plain.engine.max_new_tokens(request.prompt)


def test_an_answer_may_be_cut_by_length(plain, owl):
    choice = plain.ask(max_tokens=2).json()["choices"][0]
    assert choice["finish_reason"] == "length"
    assert choice["message"]["content"] == owl.tokenizer.decode(owl.tokenizer.encode("An owl.")[:2])


@pytest.mark.parametrize("stop", ["owl", ["x", "owl", "An owl."]])
def test_stop(serve, stop):
    served = serve("See an owl. See two.", chunk=1, seconds=0.01)
    body = served.ask(stop=stop).json()
    assert body["choices"][0]["message"]["content"] == "See an "
    assert body["choices"][0]["finish_reason"] == "stop"
    # The engine does not go on.
    assert served.engine.ended == ["cancelled"]


def test_the_format_ends_an_answer_that_runs_on(serve):
    served = serve("An owl.\nHuman: And now?")
    assert served.text() == "An owl."
    assert served.text(ignore_eos=True) == "An owl.\nHuman: And now?"
    assert served.engine.requests[-1].end_ids == ()
    assert served.text(min_tokens=100) == "An owl.\nHuman: And now?"


def test_several_answers(serve):
    served = serve(lambda request: f"An owl {request.seed}.")
    body = served.ask(n=3, seed=7).json()
    texts = [choice["message"]["content"] for choice in body["choices"]]
    assert texts == ["An owl 7.", "An owl 8.", "An owl 9."]
    assert [choice["index"] for choice in body["choices"]] == [0, 1, 2]
    one = served.ask(seed=7).json()
    assert body["usage"]["prompt_tokens"] == one["usage"]["prompt_tokens"]
    assert body["usage"]["completion_tokens"] == 3 * one["usage"]["completion_tokens"]


def test_logprobs(plain, owl):
    body = plain.ask(logprobs=True, top_logprobs=3).json()
    content = body["choices"][0]["logprobs"]["content"]
    ids = owl.tokenizer.encode("An owl.")
    assert len(content) == len(ids)  # not of the token that ends the answer
    assert b"".join(bytes(each["bytes"]) for each in content).strip() == b"An owl."
    assert content[0]["token"] == bytes(content[0]["bytes"]).decode()
    assert [each["logprob"] for each in content[0]["top_logprobs"]] == [-0.5, -1.5, -9999.0]
    assert plain.engine.requests[-1].num_logprobs == 3
    assert asked(plain, logprobs=True).num_logprobs == 0
    assert asked(plain, logprobs=False).num_logprobs is None


def test_a_conversation(plain, owl):
    spoken = [
        {"role": "developer", "content": "Be short."},
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "What?", "name": "Ann"},
        {"role": "assistant", "content": "An owl.", "refusal": None, "tool_calls": None},
        {"role": "user", "content": "See?"},
    ]
    same = [{"role": "system", "content": "Be short.\nBe kind."}, *spoken[2:]]
    request = asked(plain, messages=spoken)
    np.testing.assert_array_equal(request.prompt.input_ids, owl.tokenize(same).input_ids)


def test_pictures_anywhere(plain, owl):
    red, blue = png(colour=(255, 0, 0)), png(colour=(0, 0, 255))
    request = asked(
        plain,
        messages=[
            *messages("See", picture_part(red)),
            {"role": "assistant", "content": "a"},
            *messages(picture_part(blue), "and", {"type": "image_url", "image_url": uri(red)}),
        ],
    )
    first, second, third = request.prompt.images
    assert first[0, 0].tolist() == third[0, 0].tolist() == [255, 0, 0]
    assert second[0, 0].tolist() == [0, 0, 255]
    assert (request.prompt.input_ids == IMAGE_ID).sum() == 3 * owl.num_tokens("image")


@pytest.mark.parametrize(
    "part",
    [
        {"type": "video_url", "video_url": {"url": uri(gif(), "video/gif")}},
        {"type": "video_url", "video_url": uri(gif(), "video/gif")},
        {"type": "video", "video": uri(gif(), "video/gif")},
        {"type": "video", "video": [uri(png()), uri(png(9, 9))]},
        {
            "type": "video_url",
            "video_url": {"url": f"{uri(png(), 'video/jpeg')},{uri(png()).partition(',')[2]}"},
        },
    ],
)
def test_videos(plain, owl, part):
    request = asked(plain, messages=messages(part, "What?"))
    (clip,) = request.prompt.videos
    assert clip.shape == (4, 28, 28, 3)
    assert (request.prompt.input_ids == VIDEO_ID).sum() == owl.num_tokens("video", 4)


def test_frames_of_a_video(serve):
    served = serve(frames=(4, 2))
    part = {"type": "video", "video": uri(gif(), "video/gif")}
    ask = {"messages": messages(part, "What?")}
    chosen = asked(served, **ask, media_io_kwargs={"video": {"num_frames": 2}})
    assert len(chosen.prompt.videos[0]) == 2
    refused = served.ask(**ask, media_io_kwargs={"video": {"num_frames": 3}})
    assert refused.status_code == 400
    assert refused.json()["error"]["param"] == "media_io_kwargs.video.num_frames"
    assert "expected 4 or 2" in refused.json()["error"]["message"]


def test_a_mark_in_a_text_is_text(plain):
    """It neither takes a picture's place nor needs one."""
    request = asked(plain, messages=messages("<image> <|video|>", picture_part()))
    assert len(request.prompt.images) == 1 and not request.prompt.videos


def test_fields_without_effect(plain):
    response = plain.ask(
        user="ann",
        metadata={"a": "b"},
        store=False,
        service_tier="auto",
        parallel_tool_calls=True,
        tools=[],
        tool_choice="none",
        logit_bias={},
        modalities=["text"],
        stream_options=None,
        response_format={"type": "text"},
        n=None,
    )
    assert response.status_code == 200, response.text


def test_an_adapter_is_chosen_by_model(serve):
    served = serve(adapters=("birds",))
    response = served.ask(model="birds")
    assert response.json()["model"] == "birds"
    assert served.engine.requests[-1].adapter == "birds"
    listed = served.client.get("/v1/models").json()
    assert listed["object"] == "list"
    assert [entry["id"] for entry in listed["data"]] == ["tiny", "birds"]
    assert [entry["parent"] for entry in listed["data"]] == [None, "tiny"]
    assert listed["data"][0]["max_model_len"] == 192
    assert served.client.get("/v1/models/birds").json() == listed["data"][1]
    assert served.client.get("/v1/models/fish").status_code == 404
