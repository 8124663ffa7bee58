"""A model of ours in lmms-eval (https://github.com/EvolvingLMMs-Lab/lmms-eval), as `owl_jax`.

    python -m lmms_eval --model=owl_jax --model_args=pretrained=DIR --tasks=TASK

lmms-eval finds it by the entry point of the distribution owl_jax. lmms-eval installs some 50
packages, PyTorch among them: keep it in an environment of its own.
"""

from __future__ import annotations

import io
import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
from lmms_eval.api.instance import GenerationResult
from lmms_eval.api.model import lmms
from lmms_eval.models.registry_v2 import ModelManifest
from PIL import Image

import owl_jax
from owl_jax.errors import UserError, shown
from owl_jax.evaluation.ask import Settings, prepare
from owl_jax.evaluation.benchmark import Medium, Mode, Question
from owl_jax.evaluation.prompts import Asking
from owl_jax.evaluation.responders import (
    Model,
    Prepared,
    Reply,
    Texts,
    choose_by_likelihood,
    generate_with_engine,
)
from owl_jax.inference.arguments import NUM_FRAMES
from owl_jax.inference.engine import Engine

_MAX_NEW_TOKENS = 1024  # of tasks that name none, as lmms-eval's own models do
_KNOWN = {"max_new_tokens", "temperature", "until", "do_sample", "num_beams", "top_p"}


class OwlForQuestions(lmms):
    """Answers lmms-eval's tasks of questions with pictures and videos, and of multiple choice."""

    is_simple = True

    def __init__(
        self,
        pretrained: str,
        adapter: str | None = None,
        dtype: str | None = None,
        num_frames: int = NUM_FRAMES,
        num_rows: int | None = None,
        **others: Any,
    ):
        """Loads a model.

        Args:
          pretrained, adapter, dtype: as in owl_jax.load; dtype is float32 on a CPU by default.
          num_frames: that the model sees of a video.
          num_rows: answers at once; by default what fits into memory.
          others: lmms-eval's own arguments (batch_size, device), which have no meaning here.
        """
        super().__init__()
        unknown = others.keys() - {"batch_size", "max_batch_size", "device"}
        if unknown:
            raise UserError(f"--model_args: owl_jax has no {', '.join(sorted(unknown))}")
        dtype = dtype or ("float32" if jax.default_backend() == "cpu" else "bfloat16")
        self._owl = owl_jax.load(pretrained, dtype, adapter)
        self._num_frames = int(num_frames)
        rows = None if num_rows is None else int(num_rows)
        self._engine = Engine(self._owl, num_rows=rows, frames=(self._num_frames,))
        self._engine.start()

    def generate_until(self, requests: Sequence[Any]) -> list[str]:
        """The answers, in the order of the requests."""
        askings, settings = [], []
        for index, request in enumerate(requests):
            question, kwargs = self._question(request.args)
            askings.append(Asking(str(index), question))
            settings.append(_Wanted.of(kwargs))
        answers: dict[str, str] = {}
        # Requests of a task want the same; those of several tasks may be mixed.
        for wanted in dict.fromkeys(settings):
            ours = [a for a, own in zip(askings, settings, strict=True) if own == wanted]
            respond = generate_with_engine(
                self._engine, Texts.of(self._owl), wanted.max_new_tokens, wanted.temperature
            )
            for reply in respond(self._prepared(ours, "generate")):
                answers[reply.id] = wanted.cut(_text(reply))
        return [answers[asking.id] for asking in askings]

    def loglikelihood(self, requests: Sequence[Any]) -> list[GenerationResult]:
        """(the loss of each continuation, False).

        lmms-eval's tasks of multiple choice take the least of what its interface calls a
        log-likelihood: it has to be the loss. Whether the continuation is what greedy decoding
        gives, which no such task asks for, is not looked at.
        """
        respond = choose_by_likelihood(Model.of(self._owl), is_letter=False)
        found: list[GenerationResult] = []
        # The choices of a question follow each other: its pictures are read once.
        for _, members in itertools.groupby(requests, key=lambda one: one.args[3:6]):
            group = [request.args for request in members]
            question = self._simple(*(group[0][index] for index in (0, 2, 3, 4, 5)))
            asking = Asking("choices", question, tuple(str(args[1]).strip() for args in group))
            [reply] = respond(self._prepared([asking], "rank"))
            _text(reply)
            # lmms-eval 0.7.3 makes a text of every other result that is not a text.
            found += [GenerationResult(text=(loss, False)) for loss in reply.losses]
        return found

    def generate_until_multi_round(self, requests: Sequence[Any]) -> list[str]:
        """Not offered: raises UserError."""
        raise UserError("owl_jax answers lmms-eval's tasks of one round only")

    def _question(self, args: tuple[Any, ...]) -> tuple[Question, dict[str, Any]]:
        """A request's question and generation_kwargs."""
        text, wanted, doc_to_visual, doc_id, task, split = args
        return self._simple(text, doc_to_visual, doc_id, task, split), wanted

    def _simple(
        self, text: str, doc_to_visual: Any, doc_id: Any, task: str, split: str
    ) -> Question:
        media = [_medium(each) for each in doc_to_visual(self.task_dict[task][split][doc_id]) or ()]
        return Question((*media, text.replace("<image>", "").strip()))

    def _prepared(self, askings: Iterable[Asking], mode: Mode) -> Iterable[Prepared]:
        settings = Settings(mode, num_frames=self._num_frames)
        for asking in askings:
            yield prepare(self._owl, asking, settings)


class OwlForMessages(OwlForQuestions):
    """The same for tasks that give whole messages, with pictures and videos at their places."""

    is_simple = False

    def _question(self, args: tuple[Any, ...]) -> tuple[Question, dict[str, Any]]:
        _, doc_to_messages, wanted, doc_id, task, split = args
        messages = doc_to_messages(self.task_dict[task][split][doc_id])
        if [message["role"] for message in messages] != ["user"]:
            roles = ", ".join(message["role"] for message in messages)
            raise UserError(f"task {task} has messages of {roles}; expected one of user")
        return Question(tuple(_part(part) for part in messages[0]["content"])), wanted


@dataclass(frozen=True)
class _Wanted:
    """generation_kwargs of a task."""

    max_new_tokens: int
    temperature: float
    until: tuple[str, ...]

    @staticmethod
    def of(kwargs: Mapping[str, Any]) -> _Wanted:
        """Raises UserError for what would change answers and is not offered."""
        given = {key: value for key, value in kwargs.items() if value is not None}
        if given.keys() - _KNOWN or given.get("num_beams", 1) != 1 or given.get("top_p", 1) != 1:
            raise UserError(
                f"generation_kwargs {shown(given)}: expected max_new_tokens, temperature and until"
            )
        until = given.get("until", ())
        return _Wanted(
            int(given.get("max_new_tokens", _MAX_NEW_TOKENS)),
            float(given.get("temperature", 0.0)),
            (until,) if isinstance(until, str) else tuple(until),
        )

    def cut(self, text: str) -> str:
        """The text up to where the task ends it."""
        for stop in filter(None, self.until):
            text = text.split(stop)[0]
        return text


def _text(reply: Reply) -> str:
    if reply.failure:
        raise UserError(f"no answer: {reply.failure}")
    return reply.text


def _part(part: dict[str, Any]) -> str | Medium:
    if part["type"] == "text":
        return str(part["text"])
    return _medium(part["url"], part.get("start_time"), part.get("end_time"))


def _medium(source: Any, start: float | None = None, end: float | None = None) -> Medium:
    """A picture of PIL, or a video's path."""
    if isinstance(source, Image.Image):
        file = io.BytesIO()
        source.convert("RGB").save(file, "PNG")
        return Medium("image", file.getvalue())
    if isinstance(source, str | Path):
        return Medium("video", Path(source), start, end)
    raise UserError(f"found {type(source).__name__}; expected a picture or the path of a video")


def manifest() -> ModelManifest:
    """What lmms-eval's registry is told."""
    here = __name__
    return ModelManifest(
        "owl_jax",
        simple_class_path=f"{here}.OwlForQuestions",
        chat_class_path=f"{here}.OwlForMessages",
    )
