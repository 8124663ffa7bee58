"""The bodies of requests: OpenAI's fields, and what vLLM's clients add to them.

Fields that are not here are refused, and so are values that the server would have to ignore
although they change the answer (`tools`, `logit_bias`, ...). Fields of the last group are accepted
and have no effect: they are about accounting, or only their neutral value is allowed.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import Meta, Struct

from owl_jax.serving.errors import ApiError

Natural = Annotated[int, Meta(ge=0)]
Positive = Annotated[int, Meta(ge=1)]
Penalty = Annotated[float, Meta(ge=-2, le=2)]
Logprobs = Annotated[int, Meta(ge=0, le=20)]
StopText = Annotated[str, Meta(min_length=1, max_length=1000)]
Stops = StopText | Annotated[list[StopText], Meta(max_length=4)] | None
Nothing = Annotated[list[Any], Meta(max_length=0)] | None


class _Body(Struct, forbid_unknown_fields=True):
    pass


class MediaUrl(_Body):
    """A data URI, or an https URL of an allowed host."""

    url: str
    detail: str | None = None


class TextPart(_Body, tag_field="type", tag="text"):
    """Text of a message."""

    text: str


class ImagePart(_Body, tag_field="type", tag="image_url"):
    """A picture."""

    image_url: MediaUrl | str


class VideoUrlPart(_Body, tag_field="type", tag="video_url"):
    """A video file."""

    video_url: MediaUrl | str


class VideoPart(_Body, tag_field="type", tag="video"):
    """A video file, or its frames as pictures."""

    video: str | list[str]


class RefusalPart(_Body, tag_field="type", tag="refusal"):
    """A refusal that an earlier answer had; read as text."""

    refusal: str


Part = TextPart | ImagePart | VideoUrlPart | VideoPart | RefusalPart


class Message(_Body):
    """A message; the fields after content are those of answers that clients send back."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[Part] | None = None
    name: str | None = None
    refusal: str | None = None
    annotations: list[Any] | None = None
    audio: None = None
    function_call: None = None
    tool_calls: Nothing = None


class StreamOptions(_Body):
    """include_usage: a last chunk with the counts; continuous_usage_stats: in every chunk."""

    include_usage: bool | None = None
    continuous_usage_stats: bool | None = None
    include_obfuscation: bool | None = None


class TextFormat(_Body, tag_field="type", tag="text"):
    """Any text."""


class JsonObjectFormat(_Body, tag_field="type", tag="json_object"):
    """Any JSON object."""


class NamedSchema(_Body, rename={"schema_": "schema"}):
    """A JSON schema and its name."""

    schema_: dict[str, Any]
    name: str | None = None
    description: str | None = None
    strict: bool | None = None


class JsonSchemaFormat(_Body, tag_field="type", tag="json_schema"):
    """JSON that a schema describes."""

    json_schema: NamedSchema


ResponseFormat = TextFormat | JsonObjectFormat | JsonSchemaFormat


class VideoOptions(_Body):
    """How many frames the model sees."""

    num_frames: Positive | None = None


class MediaOptions(_Body):
    """How media are read."""

    video: VideoOptions | None = None


class Common(_Body, kw_only=True):
    """What both endpoints take."""

    model: str | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: Positive | None = None
    n: Positive | None = None
    stop: Stops = None
    seed: int | None = None
    temperature: Annotated[float, Meta(ge=0)] | None = None
    top_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    top_k: Annotated[int, Meta(ge=-1)] | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    repetition_penalty: Annotated[float, Meta(gt=0)] | None = None
    response_format: ResponseFormat | None = None
    ignore_eos: bool | None = None
    min_tokens: Natural | None = None

    user: str | None = None
    metadata: dict[str, Any] | None = None
    store: bool | None = None
    service_tier: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: str | None = None
    logit_bias: Annotated[dict[str, float], Meta(max_length=0)] | None = None
    min_p: Annotated[float, Meta(ge=0, le=0)] | None = None


class ChatBody(Common, kw_only=True):
    """Of /v1/chat/completions."""

    messages: Annotated[list[Message], Meta(min_length=1, max_length=10_000)]
    max_completion_tokens: Positive | None = None
    logprobs: bool | None = None
    top_logprobs: Logprobs | None = None
    media_io_kwargs: MediaOptions | None = None

    modalities: list[Literal["text"]] | None = None
    parallel_tool_calls: bool | None = None
    reasoning_effort: str | None = None
    verbosity: str | None = None
    tools: Nothing = None
    tool_choice: Literal["none", "auto"] | None = None
    functions: Nothing = None
    function_call: Literal["none", "auto"] | None = None
    audio: None = None
    prediction: None = None
    web_search_options: None = None


class CompletionBody(Common, kw_only=True):
    """Of /v1/completions. A prompt may be given as token ids."""

    prompt: str | list[str | int | list[int]]
    logprobs: Logprobs | None = None

    best_of: Positive | None = None
    echo: Literal[False] | None = None
    suffix: Annotated[str, Meta(max_length=0)] | None = None


class VoteBody(_Body, kw_only=True):
    """Of /votes. messages: the conversation, with the answer last. id: the answer's."""

    vote: Literal["up", "down", "none"]
    id: Annotated[str, Meta(min_length=1, max_length=128)]
    model: str
    messages: Annotated[list[Message], Meta(min_length=1, max_length=10_000)]


T = TypeVar("T", bound=Struct)


def read_as(kind: type[T], body: bytes) -> T:
    """The body of a request. Raises ApiError, which names the field, if it is not one."""
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.ValidationError as error:
        message, _, path = str(error).partition(" - at `$")
        unknown = re.search("unknown field `(.*?)`", message)
        inner = path.rstrip("`").removeprefix(".")
        param = ".".join(filter(None, (inner, unknown[1] if unknown else ""))) or None
        if "of length <= 0" in message:  # Nothing
            message = "not supported by this server"
        raise ApiError(400, f"{inner or 'the body'}: {message}", param=param) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ApiError(400, f"the body is not JSON: {error}", code="invalid_json") from None
