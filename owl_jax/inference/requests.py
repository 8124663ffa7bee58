"""What the engine is asked, and what it answers (inference/engine.py).

Letters: L tokens, S image side, T frames, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

import numpy as np

from owl_jax.errors import UserError
from owl_jax.inference.arguments import whole_number
from owl_jax.inference.sampling import END_IDS, Sampling, check_seed
from owl_jax.models.config import OwlConfig
from owl_jax.text.media_index import IMAGE_ID, VIDEO_ID

FinishReason = Literal["stop", "length", "cancelled", "deadline", "error"]
GREEDY = Sampling()


class QueueFull(UserError):
    """The engine does not accept more requests at the moment."""


class Constraint(Protocol):
    """Restricts the tokens of one answer: a grammar, for example. Used by the engine's thread."""

    def allowed(self) -> np.ndarray:
        """uint32[V / 32, rounded up]: a bit for each token that may come next, lowest first."""

    def accept(self, token: int) -> None:
        """Advances by the token that was sampled."""


@dataclass(frozen=True, eq=False)  # arrays have no truth value
class ChatPrompt:
    """A tokenized conversation with its media, from `Owl.tokenize`.

    input_ids: int32[L]; -1 at each token of an image, -2 of a video.
    images: uint8[S, S, 3] each, videos: uint8[T, S, S, 3] each, in reading order.
    """

    input_ids: np.ndarray
    images: Sequence[np.ndarray] = ()
    videos: Sequence[np.ndarray] = ()


@dataclass(frozen=True, eq=False)
class Request:
    """A prompt and what is wanted.

    max_new_tokens: at least 1. The answer ends earlier where the row is full.
    min_new_tokens: no end id before these.
    end_ids: the tokens that end the answer.
    num_logprobs: None: no log-probabilities; 0: of the tokens; N: of the N likeliest as well, at
      most MAX_LOGPROBS.
    adapter: the name of one of the engine's adapters; None: the base model.
    deadline: in seconds of time.monotonic(); the request ends with reason "deadline".
    """

    prompt: ChatPrompt
    max_new_tokens: int
    sampling: Sampling = GREEDY
    seed: int = 0
    min_new_tokens: int = 0
    end_ids: tuple[int, ...] = ()
    num_logprobs: int | None = None
    constraint: Constraint | None = None
    adapter: str | None = None
    deadline: float | None = None


MAX_LOGPROBS = 20  # as in OpenAI's API


@dataclass(frozen=True)
class Token:
    """One new token. logprob and top [(id, log-probability), best first] if they were asked for;
    before penalties, temperature and constraints."""

    id: int
    logprob: float = 0.0
    top: Sequence[tuple[int, float]] = ()


@dataclass(frozen=True)
class Tokens:
    """New tokens of a request. The token that ends the answer is among them."""

    tokens: Sequence[Token]


@dataclass(frozen=True)
class Finished:
    """The last event of a request.

    reason: "stop" after an end id, "length" at max_new_tokens or a full row.
    cached_tokens: tokens of the prompt that did not have to be computed.
    error: for the reason "error".
    """

    reason: FinishReason
    cached_tokens: int = 0
    error: Exception | None = None


Event = Tokens | Finished
Listener = Callable[[Event], None]  # called by the engine's thread; must not block


@dataclass(eq=False)
class Ticket:
    """A request that has been submitted."""

    request: Request
    listener: Listener
    is_cancelled: bool = field(default=False)

    def cancel(self) -> None:
        """Ends the request within one chunk of tokens. Any thread may call this, at any time."""
        self.is_cancelled = True


@dataclass(frozen=True)
class Stats:
    """What the engine is doing, for metrics. Counts grow from its start.

    running: requests in a row; waiting: requests in the queue; finished: those that had a row.
    cache_usage: the part of the key-value cache that running requests use, 0 to 1.
    compilations: programs compiled since the warm-up ended.
    """

    running: int
    waiting: int
    cache_usage: float
    prompt_tokens: int
    cached_prompt_tokens: int
    new_tokens: int
    finished: int
    encoded_media: int
    cached_media: int
    compilations: int


def check_request(
    request: Request, config: OwlConfig, adapters: Sequence[str], frames: Sequence[int]
) -> None:
    """Raises UserError for a request that an engine cannot answer.

    adapters: the names that it may give. frames: the numbers of frames that a video may have.
    """
    if len(request.end_ids) > END_IDS:
        raise UserError(f"{len(request.end_ids)} end ids; expected at most {END_IDS}")
    if request.adapter is not None and request.adapter not in adapters:
        raise UserError(f"no adapter is called {request.adapter!r}")
    if request.num_logprobs is not None and not 0 <= request.num_logprobs <= MAX_LOGPROBS:
        raise UserError(f"num_logprobs is {request.num_logprobs}; expected 0 to {MAX_LOGPROBS}")
    whole_number(request.max_new_tokens, "max_new_tokens", 1)
    check_seed(request.seed)
    ids, most = np.asarray(request.prompt.input_ids), config.llm.vocab_size - 1
    if ids.ndim != 1 or not len(ids):
        raise UserError(f"input_ids has shape {ids.shape}; expected [L] with at least one token")
    strange = ids[(ids > most) | ((ids < 0) & (ids != IMAGE_ID) & (ids != VIDEO_ID))]
    if len(strange):
        raise UserError(
            f"input_ids has {strange[0]}; expected 0 to {most}, {IMAGE_ID} at an image and "
            f"{VIDEO_ID} at a video"
        )
    for clip in request.prompt.videos:
        if len(clip) not in frames:
            known = ", ".join(map(str, frames))
            raise UserError(f"a video of {len(clip)} frames; expected one of {known}")
    if not config.text_only:
        S = config.image_size
        for pixels in request.prompt.images:
            _check_pixels(pixels, (S, S, 3))
        for pixels in request.prompt.videos:
            _check_pixels(pixels, (len(pixels), S, S, 3))


def _check_pixels(pixels: np.ndarray, shape: tuple[int, ...]) -> None:
    """Raises UserError for pixels that need another program, or are not 0 to 255."""
    if pixels.shape != shape or pixels.dtype != np.uint8:
        raise UserError(
            f"pixels are {pixels.dtype}{list(pixels.shape)}; expected uint8{list(shape)}"
        )
