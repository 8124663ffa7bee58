"""Asks a model a benchmark's questions: in batches, over kills, and by several processes.

1. Threads tokenize a question, and read its pictures and videos if it has no answer yet.
2. The model answers (evaluation/responders.py).
3. The answer is appended to a file (evaluation/answers.py).
"""

from __future__ import annotations

import hashlib
import json
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeVar

from owl_jax.checkpoint.tree_hash import tree_hash
from owl_jax.errors import UserError, listed
from owl_jax.evaluation import media
from owl_jax.evaluation.answers import Answer, answers_file, appending, claim, read_answers
from owl_jax.evaluation.benchmark import Mode
from owl_jax.evaluation.prompts import Asking, Prompt, tokenize
from owl_jax.evaluation.responders import (
    Model,
    Prepared,
    Respond,
    Texts,
    choose_by_likelihood,
    generate_with_engine,
)
from owl_jax.inference.api import Owl
from owl_jax.inference.arguments import NUM_FRAMES
from owl_jax.inference.engine import Engine
from owl_jax.inference.requests import ChatPrompt

_MOST_MISSING = 0.01  # of the questions
_AHEAD = 32  # questions in preparation
_TELL_EVERY = 10.0  # seconds
_Result = TypeVar("_Result")
_NOUNS = {"image": "picture", "video": "video"}


@dataclass(frozen=True)
class Settings:
    """How a model is asked.

    mode: "generate": the answer is what the model writes. "letter": the letter of a choice that is
      the likeliest next token. "rank": the letter of the choice with the least loss, which is the
      sum of the negative log-likelihoods of its tokens.
    max_new_tokens: of an answer that is generated.
    num_frames: that the model sees of each video.
    temperature, seed: 0 is greedy decoding.
    """

    mode: Mode = "generate"
    max_new_tokens: int = 32
    num_frames: int = NUM_FRAMES
    temperature: float = 0.0
    seed: int = 0


@dataclass(frozen=True)
class Outcome:
    """What a run of `ask` leaves behind.

    answers: of all processes so far, by id, in the order of the questions.
    missing: {id: file} of the questions whose picture or video is not there.
    failed: {id: reason} of the questions that this process could not answer: asked again next time.
    """

    answers: Mapping[str, Answer]
    missing: Mapping[str, str]
    failed: Mapping[str, str]


@dataclass
class Progress:
    """total: questions of this process; earlier: answered by earlier runs; answered: by now."""

    total: int
    earlier: int = 0
    answered: int = 0


Tell = Callable[[Progress], None]


def ask(
    owl: Owl,
    askings: Sequence[Asking],
    settings: Settings,
    directory: Path,
    run: Mapping[str, str],
    *,
    shard_index: int = 0,
    num_shards: int = 1,
    threads: int = 4,
    num_rows: int | None = None,
    row_length: int | None = None,
    tell: Tell | None = None,
) -> Outcome:
    """Answers what has no answer in `directory` yet; question i is process i mod n's.

    run: what this run is, by name, such as {"benchmark": ..., "data": ..., "template": ...}; the
      model and the settings are added.
    threads: that tokenize and decode media. num_rows, row_length: of the engine.
    tell: called after each question; by default progress goes to stderr.

    Raises UserError if the directory is another run's, if the model does not take a question's
    media, if more than 1 % of the questions miss theirs, and for a question without choices where
    the mode needs them.
    """
    check(owl, askings, settings)
    missing = missing_media(askings)
    model = model_hash(owl)
    claim(directory, {**run, "model": model, **{k: str(v) for k, v in asdict(settings).items()}})
    own = [asking for asking in askings[shard_index::num_shards] if asking.id not in missing]
    earlier = read_answers(directory)
    failed: dict[str, str] = {}
    progress, tell = Progress(len(own)), tell or Teller()

    def unanswered(asking: Asking) -> tuple[str, Prepared | None]:
        """The key of a question, and its prompt if it has no answer yet."""
        prompt = tokenize(owl, asking, settings.mode, settings.num_frames)
        key = _key(model, settings, prompt, map(media.digest, asking.media))
        if asking.id in earlier and earlier[asking.id].key == key:
            return key, None
        return key, _with_pixels(owl, asking, prompt, settings)

    keys: dict[str, str] = {}

    def prompts() -> Iterator[Prepared]:
        for asking, work in _ahead(pool, unanswered, own):
            try:
                keys[asking.id], prepared = work.result()
            except UserError as error:
                failed[asking.id] = str(error)
                continue
            if prepared is None:
                progress.earlier += 1
                tell(progress)
            else:
                yield prepared

    with (
        appending(answers_file(directory, shard_index, num_shards)) as file,
        ThreadPoolExecutor(threads, thread_name_prefix="prepare") as pool,
        _responding(owl, settings, num_rows, row_length) as respond,
    ):
        try:
            for reply in respond(prompts()):
                if reply.failure:
                    failed[reply.id] = reply.failure
                    continue
                file.add(Answer(reply.id, reply.text, keys.pop(reply.id), reply.losses))
                progress.answered += 1
                tell(progress)
        finally:
            pool.shutdown(cancel_futures=True)
    found = read_answers(directory)
    answers = {asking.id: found[asking.id] for asking in askings if asking.id in found}
    return Outcome(
        {id: answer for id, answer in answers.items() if id not in failed | missing},
        missing,
        failed,
    )


def check(owl: Owl, askings: Sequence[Asking], settings: Settings) -> None:
    """Raises UserError for media that the model cannot take, and for missing choices."""
    _ = owl.tokenizer, owl.format
    for asking in askings:
        if asking.media and owl.config.text_only:
            raise UserError(
                f"question {asking.id} shows a {_NOUNS[asking.media[0].kind]}, but this language "
                "model has no vision encoder: it takes text only"
            )
        if settings.mode != "generate" and not asking.choices:
            raise UserError(
                f"question {asking.id} has no choices; --mode={settings.mode} needs them: choose "
                "--mode=generate"
            )


def missing_media(askings: Sequence[Asking]) -> dict[str, str]:
    """{id: file} of questions whose picture or video is not there. Raises UserError if more than
    1 % of the questions miss theirs."""
    found: dict[str, str] = {}
    for asking in askings:
        paths = [path for medium in asking.media if (path := media.missing(medium))]
        if paths:
            found[asking.id] = str(paths[0])
    if len(found) > _MOST_MISSING * len(askings):
        raise UserError(
            f"{len(found):,} of {len(askings):,} questions miss a picture or video, more than "
            f"{_MOST_MISSING:.0%}: {listed(dict.fromkeys(found.values()), 4)}; add the missing "
            "files"
        )
    return found


def model_hash(owl: Owl) -> str:
    """Identifies a model by its weights, its configuration and the dtypes of weights and cache."""
    config = json.dumps(owl.config.to_dict(), sort_keys=True, default=str)
    cache = "" if owl.cache_dtype == "auto" else f" {owl.cache_dtype}"
    return hashlib.sha256(f"{tree_hash(owl.params)} {config}{cache}".encode()).hexdigest()


def prepare(owl: Owl, asking: Asking, settings: Settings) -> Prepared:
    """A question as tokens and pixels. Raises UserError."""
    prompt = tokenize(owl, asking, settings.mode, settings.num_frames)
    return _with_pixels(owl, asking, prompt, settings)


def _with_pixels(owl: Owl, asking: Asking, prompt: Prompt, settings: Settings) -> Prepared:
    size, resizing = owl.config.image_size, owl.config.resizing
    pixels = [media.pixels(medium, settings.num_frames, size, resizing) for medium in asking.media]
    images, videos = ([array for array in pixels if array.ndim == ndim] for ndim in (3, 4))
    return Prepared(
        asking.id,
        ChatPrompt(prompt.ids, images, videos),
        bool(asking.question.answer_start),
        prompt.continuations,
    )


class Teller:
    """Tells how far a run is, every few seconds."""

    def __init__(self) -> None:
        self._start = self._last = time.monotonic()

    def __call__(self, progress: Progress) -> None:
        now, done = time.monotonic(), progress.earlier + progress.answered
        if (now - self._last < _TELL_EVERY and done < progress.total) or not progress.answered:
            return
        self._last, seconds = now, now - self._start
        left = (progress.total - done) * seconds / progress.answered
        print(
            f"{done:,} of {progress.total:,} answers, {progress.answered / seconds:,.1f}/s, about "
            f"{left:,.0f} s left",
            file=sys.stderr,
        )


@contextmanager
def _responding(
    owl: Owl, settings: Settings, num_rows: int | None, row_length: int | None
) -> Iterator[Respond]:
    if settings.mode != "generate":
        yield choose_by_likelihood(Model.of(owl), settings.mode == "letter")
        return
    engine = Engine(owl, num_rows=num_rows, row_length=row_length, frames=(settings.num_frames,))
    engine.start()  # without warm_up: few of its programs are needed
    try:
        yield generate_with_engine(
            engine, Texts.of(owl), settings.max_new_tokens, settings.temperature, settings.seed
        )
    finally:
        engine.close()


def _ahead(
    pool: ThreadPoolExecutor, work: Callable[[Asking], _Result], askings: Iterable[Asking]
) -> Iterator[tuple[Asking, Future[_Result]]]:
    """Works on questions before they are needed, but not on all at once."""
    works: deque[tuple[Asking, Future[_Result]]] = deque()
    for asking in askings:
        works.append((asking, pool.submit(work, asking)))
        if len(works) > _AHEAD:
            yield works.popleft()
    while works:
        yield works.popleft()


def _key(model: str, settings: Settings, prompt: Prompt, hashes: Iterable[str]) -> str:
    values = [model, asdict(settings), prompt.ids.tolist(), prompt.continuations, list(hashes)]
    return hashlib.sha256(json.dumps(values).encode()).hexdigest()
